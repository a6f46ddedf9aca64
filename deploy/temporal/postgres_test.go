package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"go.temporal.io/server/schema"

	"understudy/deploy/temporal/pgtest"
)

const playServer = "UNDERSTUDY_TEMPORAL_TEST_IS_THE_SERVER"

// TestMain lets the test's own binary be the server, so that it can be killed and nothing is linked twice.
func TestMain(m *testing.M) {
	if os.Getenv(playServer) != "" {
		os.Exit(exit(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// child is a server in a process of its own.
type child struct {
	*exec.Cmd
	out  *bytes.Buffer
	died chan struct{}
}

func start(t *testing.T, args ...string) *child {
	t.Helper()
	c := &child{out: &bytes.Buffer{}, died: make(chan struct{})}
	c.Cmd = exec.Command(os.Args[0], args...)
	c.Env = append(os.Environ(), playServer+"=1")
	c.Stdout, c.Stderr = c.out, c.out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = c.Wait(); close(c.died) }()
	t.Cleanup(func() {
		c.kill()
		if t.Failed() {
			t.Logf("%q: %s", args, c.out)
		}
	})
	return c
}

func (c *child) kill() {
	_ = c.Process.Kill()
	<-c.died
}

// says waits for its end and returns its last words.
func (c *child) says(t *testing.T) string {
	t.Helper()
	select {
	case <-c.died:
	case <-time.After(2 * time.Minute):
		t.Fatal("it does not end")
	}
	if c.ProcessState.Success() {
		t.Fatalf("it ended without an error: %s", c.out)
	}
	return c.out.String()
}

// ports that nobody uses: the frontend's and the three above it.
func ports(t *testing.T) int {
	t.Helper()
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port, free := l.Addr().(*net.TCPAddr).Port, true
		_ = l.Close()
		for next := port; next <= port+3; next++ {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", next))
			if err != nil {
				free = false
				continue
			}
			_ = l.Close()
		}
		if free {
			return port
		}
	}
}

func onPostgres(pg *pgtest.Server, password string, port int) []string {
	return []string{"--headless", "--port", fmt.Sprint(port), "--db", pg.URL(pgtest.Database), "--db-password-file", password,
		"--search-attribute", "UnderstudyVM=Keyword", "--search-attribute", "UnderstudyGeneration=Int"}
}

func dial(t *testing.T, port int) client.Client {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		c, err := client.Dial(client.Options{HostPort: fmt.Sprintf("127.0.0.1:%d", port), Namespace: "understudy", Logger: slog.New(slog.DiscardHandler)})
		if err == nil {
			if _, err = c.WorkflowService().DescribeNamespace(t.Context(), &workflowservice.DescribeNamespaceRequest{Namespace: "understudy"}); err == nil {
				t.Cleanup(c.Close)
				return c
			}
			c.Close()
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

const tasks = "orders"

var vm = temporal.NewSearchAttributeKeyKeyword("UnderstudyVM")

// waits goes on when it is told to, and says what it was told.
func waits(ctx workflow.Context) (string, error) {
	var said string
	workflow.GetSignalChannel(ctx, "go").Receive(ctx, &said)
	return said, workflow.Sleep(ctx, time.Second)
}

func serve(t *testing.T, c client.Client) {
	t.Helper()
	w := worker.New(c, tasks, worker.Options{})
	w.RegisterWorkflow(waits)
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
}

func begin(t *testing.T, c client.Client, id string) client.WorkflowRun {
	t.Helper()
	run, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{
		ID: id, TaskQueue: tasks, TypedSearchAttributes: temporal.NewSearchAttributes(vm.ValueSet("db1")),
	}, waits)
	if err != nil {
		t.Fatal(err)
	}
	return run
}

// finish lets a waiting workflow go on. The server may still be coming up.
func finish(t *testing.T, c client.Client, id string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for err := c.SignalWorkflow(ctx, id, "", "go", "now"); err != nil; err = c.SignalWorkflow(ctx, id, "", "go", "now") {
		if ctx.Err() != nil {
			t.Fatal(err)
		}
		time.Sleep(200 * time.Millisecond)
	}
	var said string
	if err := c.GetWorkflow(ctx, id, "").Get(ctx, &said); err != nil || said != "now" {
		t.Fatalf("it said %q: %v", said, err)
	}
}

// seen waits until the visibility store finds so many running workflows by their search attribute.
func seen(t *testing.T, c client.Client, want int) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		r, err := c.ListWorkflow(t.Context(), &workflowservice.ListWorkflowExecutionsRequest{Query: `UnderstudyVM="db1" AND ExecutionStatus="Running"`})
		if err == nil && len(r.GetExecutions()) == want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d of %d are found: %v", len(r.GetExecutions()), want, err)
		}
	}
}

// One story of a life on PostgreSQL: kill -9 of the server and of the database, a backup, a restore, and never two servers.
func TestWorkflowsOutliveTheServerAndThePostgresBelowIt(t *testing.T) {
	pg := pgtest.Start(t)
	port, password := ports(t), pg.PasswordFile()
	args := onPostgres(pg, password, port)
	server := start(t, args...)
	c := dial(t, port)
	serve(t, c)
	for _, id := range []string{"killed", "cut-off", "restored"} {
		begin(t, c, id)
	}
	seen(t, c, 3)
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", server.Process.Pid))
	if err != nil || bytes.Contains(cmdline, []byte(pgtest.Password)) {
		t.Fatalf("ps shows the password: %q, %v", cmdline, err)
	}

	second := start(t, onPostgres(pg, password, ports(t))...)
	if said := second.says(t); !strings.Contains(said, errInUse.Error()) || strings.Contains(said, pgtest.Password) {
		t.Fatal(said)
	}

	server.kill()
	server = start(t, args...)
	finish(t, c, "killed")

	pg.Kill()
	pg.Restart()
	finish(t, c, "cut-off")
	select {
	case <-server.died:
		t.Fatal("it ended with its database, which came back")
	default:
	}

	seen(t, c, 1)
	dump := filepath.Join(t.TempDir(), "dump")
	written := pg.Tool("pg_dump", pgtest.Database)
	if err := os.WriteFile(dump, []byte(written), 0o600); err != nil {
		t.Fatal(err)
	}
	server.kill()
	pg.SQL("postgres", "DROP DATABASE "+pgtest.Database+" WITH (FORCE)")
	pg.SQL("postgres", "CREATE DATABASE "+pgtest.Database+" OWNER "+pgtest.User)
	pg.Load(pgtest.Database, dump)
	start(t, args...)
	finish(t, c, "restored")
	seen(t, c, 0)
}

func TestWhatKeepsPostgresFromBeingUsedIsSaidAndHowToMendIt(t *testing.T) {
	pg := pgtest.Start(t)
	file := func(content string, mode os.FileMode) string {
		path := filepath.Join(t.TempDir(), "password")
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := pg.PasswordFile()
	refused := func(o options, words ...string) {
		t.Helper()
		db, err := openDatabase(t.Context(), o)
		if err == nil {
			_ = db.end()
			t.Fatal("it was opened")
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q is missing in: %v", w, err)
			}
		}
		if strings.Contains(err.Error(), pgtest.Password) {
			t.Errorf("the password stands in: %v", err)
		}
	}
	at := pg.URL(pgtest.Database)
	refused(options{db: at, dbPasswordFile: file("wrong", 0o600)}, "password authentication failed", "is the content of --db-password-file")
	refused(options{db: at, dbPasswordFile: file(pgtest.Password, 0o644)}, "can be read by others", "chmod 0600")
	refused(options{db: pg.URL("nothing"), dbPasswordFile: good}, "does not exist", "createdb --owner USER nothing")
	refused(options{db: "postgres://understudy:secret@127.0.0.1/x"}, "must not hold the password")
	refused(options{db: "postgres://understudy@127.0.0.1/x?password=secret"}, "must not hold the password")
	refused(options{db: "mysql://understudy@127.0.0.1/x"}, "postgres://USER@HOST")
	refused(options{db: "postgres://understudy@127.0.0.1/"}, "name of a database")
	refused(options{db: "postgres://understudy@127.0.0.1/x?sslmode=maybe"}, "sslmode")

	pg.SQL("postgres", "CREATE DATABASE theirs") // of postgres
	refused(options{db: pg.URL("theirs"), dbPasswordFile: good}, "permission denied", "must own the database")

	t.Setenv("PGPASSWORD", pgtest.Password)
	db, err := openDatabase(t.Context(), options{db: at})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.end(); err != nil {
		t.Fatal(err)
	}
	set := func(version, oldest string) {
		pg.SQL(pgtest.Database, "UPDATE temporal_visibility.schema_version SET curr_version='"+version+"', min_compatible_version='"+oldest+"'")
	}
	set("9.1", "9.0")
	refused(options{db: at}, "schema temporal_visibility", "version 9.1", "this one knows")
	set("later", "0.1")
	refused(options{db: at}, "cannot be read")
	pg.SQL(pgtest.Database, "DELETE FROM temporal_visibility.schema_version")
	refused(options{db: at}, "no version for the database")
	set("9.1", "0.1")
	pg.SQL(pgtest.Database, "INSERT INTO temporal_visibility.schema_version VALUES (0, 'understudy', now(), '9.1', '0.1')")
	if db, err = openDatabase(t.Context(), options{db: at}); err != nil {
		t.Fatalf("a program that went back one version, whose schema still fits: %v", err)
	}
	_ = db.end()
}

// A schema of each version in between becomes what Temporal's own schema.sql makes, and a half made upgrade is begun again.
func TestAnOlderSchemaIsUpgradedToWhatTemporalWouldMakeAnew(t *testing.T) {
	pg := pgtest.Start(t)
	t.Setenv("PGPASSWORD", pgtest.Password)
	p, err := postgresAt(options{db: pg.URL(pgtest.Database)})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.takeLock(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.close() }()
	for _, s := range []struct{ schema, dir string }{{mainSchema, "postgresql/v12/temporal"}, {visibilitySchema, "postgresql/v12/visibility"}} {
		all, err := steps(s.dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range all {
			if err := p.upgradeOne(t.Context(), s.schema, s.dir, step.CurrVersion); err != nil {
				t.Fatal(err)
			}
		}
		text, err := fs.ReadFile(schema.Assets(), s.dir+"/schema.sql")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.lock.Exec(t.Context(), "CREATE SCHEMA reference; SET search_path TO reference, "+s.schema+";"+string(text)); err != nil {
			t.Fatal(err)
		}
		made := shape(pg, s.schema)
		for _, want := range shape(pg, "reference") {
			if !slices.Contains(made, want) { // there may be more: Temporal leaves tables behind that it no longer uses
				t.Errorf("%s lacks %s", s.schema, want)
			}
		}
		pg.SQL(pgtest.Database, "DROP SCHEMA reference CASCADE")
	}
	if err := p.upgrade(t.Context()); err != nil {
		t.Fatalf("nothing was left to do: %v", err)
	}
}

// shape is what the tables and indexes of a schema look like.
func shape(pg *pgtest.Server, schema string) []string {
	return strings.Split(pg.SQL(pgtest.Database, strings.ReplaceAll(`SELECT format('%s.%s %s %s', table_name, column_name, data_type, is_nullable)
		FROM information_schema.columns WHERE table_schema='SCHEMA'
		UNION SELECT replace(indexdef, 'SCHEMA.', '') FROM pg_indexes WHERE schemaname='SCHEMA' ORDER BY 1`, "SCHEMA", schema)), "\n")
}
