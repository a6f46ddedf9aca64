package main

import (
	"flag"
	"fmt"
	"net"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
)

// options are the command line. Addresses are IPs; ports are TCP.
type options struct {
	ip         string
	port       int // frontend; the three ports above it are used on loopback
	uiIP       string
	uiPort     int
	headless   bool // no Web UI
	namespace  string
	file       string // SQLite; empty keeps everything in memory, unless db says where
	db         string // PostgreSQL: postgres://USER@HOST/DATABASE
	sealKey    string // file; empty: beside the SQLite file
	attributes attributes
	retention  time.Duration // of closed runs
	logLevel   string
	tlsDir     string // empty: everything in plain text

	dbPasswordFile string
}

func parse(args []string) (options, error) {
	if len(args) >= 2 && args[0] == "server" && args[1] == "start-dev" {
		args = args[2:]
	}
	o := options{attributes: attributes{}}
	f := flag.NewFlagSet("understudy-temporal", flag.ContinueOnError)
	f.StringVar(&o.ip, "ip", "127.0.0.1", "address of the gRPC frontend")
	f.IntVar(&o.port, "port", 7233, "port of the gRPC frontend; the next three are used on loopback")
	f.StringVar(&o.uiIP, "ui-ip", "", "address of the Web UI, which has no login (default: --ip, or loopback with --tls-dir)")
	f.IntVar(&o.uiPort, "ui-port", 8233, "port of the Web UI")
	f.BoolVar(&o.headless, "headless", false, "no Web UI")
	f.StringVar(&o.namespace, "namespace", "understudy", "namespace to create")
	f.StringVar(&o.file, "db-filename", "", "SQLite file; without it everything is lost at the end")
	f.StringVar(&o.db, "db", "", "PostgreSQL instead of SQLite: postgres://USER@HOST[:PORT]/DATABASE, which USER owns; without its password")
	f.StringVar(&o.dbPasswordFile, "db-password-file", "", "file with the password of --db's user (default: PGPASSWORD in the environment, ~/.pgpass)")
	f.StringVar(&o.sealKey, "token-key", "", "file that keeps the key by which a host's tasks are known (default: --db-filename and .tokens)")
	f.Var(o.attributes, "search-attribute", "`NAME=TYPE` of a search attribute of a new namespace; repeatable")
	f.DurationVar(&o.retention, "retention", 6*time.Hour, "how long closed runs are kept in a new namespace, at least 1h")
	f.StringVar(&o.tlsDir, "tls-dir", "", "folder with the server's ca.crt, tls.crt and tls.key: clients must then show a certificate, and may do what it is for")
	f.StringVar(&o.logLevel, "log-level", "warn", "debug, info, warn or error")
	// Flags of start-dev that the SDK's testsuite passes and that change nothing here.
	f.String("log-format", "", "ignored")
	f.Var(ignored{}, "dynamic-config-value", "ignored")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if o.uiIP == "" {
		if o.uiIP = o.ip; o.tlsDir != "" {
			o.uiIP = loopback
		}
	}
	return o, o.check(f.Args())
}

func (o options) check(rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("unexpected argument %q", rest[0])
	case net.ParseIP(o.ip) == nil || net.ParseIP(o.uiIP) == nil:
		return fmt.Errorf("%q and %q must be IP addresses", o.ip, o.uiIP)
	case o.port < 1 || o.port > 65532 || o.uiPort < 1 || o.uiPort > 65535:
		return fmt.Errorf("ports %d and %d are out of range", o.port, o.uiPort)
	case o.namespace == "":
		return fmt.Errorf("the namespace needs a name")
	case o.retention < time.Hour:
		return fmt.Errorf("retention of %s is below Temporal's minimum of 1h", o.retention)
	case o.db != "" && o.file != "":
		return fmt.Errorf("--db and --db-filename are two databases: give one")
	case o.db != "" && o.tlsDir != "" && o.sealKey == "":
		return fmt.Errorf("--db with --tls-dir needs --token-key FILE, or hosts could not answer their tasks after a restart")
	case strings.ContainsAny(o.file, "?#%"):
		// The file becomes part of a URI.
		return fmt.Errorf("the name of the SQLite file must not contain ?, # or %%: %q", o.file)
	}
	return nil
}

// sealFile keeps the key of the seals; empty for one that is lost at the end, as all is.
func (o options) sealFile() string {
	if o.sealKey == "" && o.file != "" {
		return o.file + ".tokens"
	}
	return o.sealKey
}

// attributes is a flag that collects NAME=TYPE.
type attributes map[string]enumspb.IndexedValueType

func (a attributes) String() string { return "" }

func (a attributes) Set(s string) error {
	name, typ, ok := strings.Cut(s, "=")
	if !ok || name == "" {
		return fmt.Errorf("%q is not NAME=TYPE", s)
	}
	t, err := enumspb.IndexedValueTypeFromString(typ)
	if err != nil {
		return err
	}
	a[name] = t
	return nil
}

type ignored struct{}

func (ignored) String() string   { return "" }
func (ignored) Set(string) error { return nil }
