package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestTheCommandLineOfStartDevIsUnderstood(t *testing.T) {
	o, err := parse([]string{"server", "start-dev", "--ip", "10.1.2.3", "--port", "7000", "--search-attribute", "UnderstudyVM=Keyword"})
	if err != nil || o.frontend() != "10.1.2.3:7000" || o.uiIP != "10.1.2.3" || len(o.attributes) != 1 {
		t.Fatalf("%+v, %v", o, err)
	}
}

func TestWhatCannotBeServedIsRefused(t *testing.T) {
	for name, args := range map[string][]string{
		"a host name as address":       {"--ip", "localhost"},
		"a port out of range":          {"--port", "70000"},
		"an attribute without type":    {"--search-attribute", "UnderstudyVM"},
		"a file that would end a URI":  {"--db-filename", "a?b"},
		"a retention below the limit":  {"--retention", "10m"},
		"a leftover that nobody reads": {"start"},
	} {
		if _, err := parse(args); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestADatabaseOfAnotherSchemaIsRefusedAndOneInUseToo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "t.db")
	db, err := openDatabase(t.Context(), options{file: path})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openDatabase(t.Context(), options{file: path}); err == nil {
		t.Error("two processes may not share one file")
	}
	if err := db.end(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".schema", []byte("temporal 0.1, visibility 0.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openDatabase(t.Context(), options{file: path}); err == nil {
		t.Error("a file of another schema fails later on missing columns")
	}
}

// The namespace and its search attributes are made once; a second start changes nothing.
func TestTheNamespaceIsMadeOnce(t *testing.T) {
	o, err := parse([]string{"--db-filename", filepath.Join(t.TempDir(), "t.db"), "--search-attribute", "UnderstudyVM=Keyword"})
	if err != nil {
		t.Fatal(err)
	}
	db, err := openDatabase(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.end() }()
	for range 2 {
		if err := db.ensureNamespace(o); err != nil {
			t.Fatal(err)
		}
	}
}
