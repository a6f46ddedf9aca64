package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"go.temporal.io/server/common/config"
	sqliteplugin "go.temporal.io/server/common/persistence/sql/sqlplugin/sqlite"
	"go.temporal.io/server/schema/sqlite"
)

// database is where Temporal keeps everything: a SQLite file, memory, or PostgreSQL.
type database struct {
	main, visibility *config.SQL
	shards           int32                       // fixed for the life of a database
	hold             func(context.Context) error // until ctx ends; an error says that the database is ours no longer
	end              func() error
}

const schemaVersion = "temporal " + sqlite.Version + ", visibility " + sqlite.VisibilityVersion

func openDatabase(ctx context.Context, o options) (*database, error) {
	switch {
	case o.db != "":
		return openPostgres(ctx, o)
	case o.file != "":
		return openFile(o)
	}
	return inSQLite(memory(), func() error { return nil }), nil
}

func inSQLite(cfg *config.SQL, end func() error) *database {
	return &database{main: cfg, visibility: cfg, shards: 1, end: end, hold: func(ctx context.Context) error {
		<-ctx.Done()
		return nil
	}}
}

// openFile makes the file if needed, takes its lock and refuses a file of another schema version: the SQLite plugin
// checks none, and would fail later on missing columns. synchronous=NORMAL may lose the last commits in a power loss (the
// file stays consistent); nothing about who may run a VM rests on it.
func openFile(o options) (*database, error) {
	path, err := filepath.Abs(o.file)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	lock, err := takeLock(path + ".lock")
	if err != nil {
		return nil, err
	}
	if err := create(path); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return inSQLite(onDisk(path), lock.Close), nil
}

// create sets the schema up beside the final name, so that a crash in the middle leaves no half schema behind.
func create(path string) error {
	have, err := os.ReadFile(path + ".schema")
	if err == nil && strings.TrimSpace(string(have)) != schemaVersion {
		return fmt.Errorf("%s has schema %q, this program needs %q: move the file away and start anew, or use the program that made it",
			path, strings.TrimSpace(string(have)), schemaVersion)
	}
	if _, err := os.Stat(path); err == nil {
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	fresh := path + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	setup := onDisk(fresh)
	setup.ConnectAttributes = map[string]string{"mode": "rwc"} // no WAL: one file to rename
	if err := sqlite.SetupSchema(setup); err != nil {
		return err
	}
	if err := os.WriteFile(path+".schema", []byte(schemaVersion+"\n"), 0o600); err != nil {
		return err
	}
	if err := os.Chmod(fresh, 0o600); err != nil {
		return err
	}
	return os.Rename(fresh, path)
}

// ensureNamespace makes the namespace in a store that lacks it. What makes it is SQLite's by name only.
func (d *database) ensureNamespace(o options) error {
	ns, err := sqlite.NewNamespaceConfig(cluster, o.namespace, false, o.attributes)
	if err != nil {
		return err
	}
	ns.Detail.Config.Retention = durationpb(o.retention)
	return sqlite.CreateNamespaces(d.main, ns)
}

func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another process uses the database (%s): %w", path, err), f.Close())
	}
	return f, nil
}

func onDisk(path string) *config.SQL {
	return &config.SQL{
		PluginName: sqliteplugin.PluginName, DatabaseName: path,
		ConnectAttributes: map[string]string{
			"mode": "rwc", "journal_mode": "wal", "synchronous": "normal", "busy_timeout": "10000",
		},
	}
}

func memory() *config.SQL {
	return &config.SQL{
		PluginName: sqliteplugin.PluginName, DatabaseName: "understudy",
		ConnectAttributes: map[string]string{"mode": "memory", "cache": "shared"},
	}
}
