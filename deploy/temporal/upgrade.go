package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/blang/semver/v4"
	"github.com/jackc/pgx/v5"
	"go.temporal.io/server/schema"
	v12 "go.temporal.io/server/schema/postgresql/v12"
)

// The tables in which Temporal and its tools keep the version of a schema.
const versionTables = `
CREATE TABLE IF NOT EXISTS schema_version(version_partition INT NOT NULL, db_name VARCHAR(255) NOT NULL, creation_time TIMESTAMP,
	curr_version VARCHAR(64), min_compatible_version VARCHAR(64), PRIMARY KEY (version_partition, db_name));
CREATE TABLE IF NOT EXISTS schema_update_history(version_partition INT NOT NULL, year INT NOT NULL, month INT NOT NULL, update_time TIMESTAMP NOT NULL,
	description VARCHAR(255), manifest_md5 VARCHAR(64), new_version VARCHAR(64), old_version VARCHAR(64), PRIMARY KEY (version_partition, year, month, update_time));`

// concurrently is what no transaction may do, and nobody else uses the tables while we change them.
var concurrently = regexp.MustCompile(`(?i)\bINDEX\s+CONCURRENTLY\b`)

// step is one version of a schema, as Temporal's module has it.
type step struct {
	CurrVersion          string
	MinCompatibleVersion string
	Description          string
	SchemaUpdateCqlFiles []string

	dir     string
	version semver.Version
}

// upgrade makes the schemas, or brings them to this program's versions: each version whole or not at all.
func (p *postgres) upgrade(ctx context.Context) error {
	for _, s := range []struct{ schema, dir, want string }{
		{mainSchema, "postgresql/v12/temporal", v12.Version},
		{visibilitySchema, "postgresql/v12/visibility", v12.VisibilityVersion},
	} {
		if err := p.upgradeOne(ctx, s.schema, s.dir, s.want); err != nil {
			return fmt.Errorf("schema %s: %w", s.schema, err)
		}
	}
	_, err := p.lock.Exec(ctx, "RESET search_path")
	return err
}

func (p *postgres) upgradeOne(ctx context.Context, name, dir, want string) error {
	if _, err := p.lock.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS "+name+"; SET search_path TO "+name+";"+versionTables); err != nil {
		return err
	}
	have, oldest := "0.0", "0.0"
	err := p.lock.QueryRow(ctx, "SELECT curr_version, min_compatible_version FROM schema_version WHERE version_partition=0 AND db_name=$1", p.name).Scan(&have, &oldest)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	if errors.Is(err, pgx.ErrNoRows) {
		if err := p.mustBeNew(ctx, name); err != nil {
			return err
		}
	}
	from, err := semver.ParseTolerant(have)
	if err != nil {
		return fmt.Errorf("its version %q cannot be read", have)
	}
	compatible, err := semver.ParseTolerant(oldest)
	if err != nil {
		return fmt.Errorf("its version %q cannot be read", oldest)
	}
	to := semver.MustParse(want + ".0")
	if compatible.GT(to) {
		return fmt.Errorf("it has version %s, which programs that know version %s or later can use, and this one knows %s: install the understudy-temporal that made it, or a later one",
			have, oldest, want)
	}
	steps, err := steps(dir)
	if err != nil {
		return err
	}
	for _, s := range steps {
		if s.version.GT(from) && s.version.LE(to) {
			if err := p.apply(ctx, s, have); err != nil {
				return fmt.Errorf("upgrade from version %s to %s: %w", have, s.CurrVersion, err)
			}
			have = s.CurrVersion
		}
	}
	return nil
}

// mustBeNew refuses tables that say no version: a database that was restored in part, or of something else.
func (p *postgres) mustBeNew(ctx context.Context, name string) error {
	var tables int
	err := p.lock.QueryRow(ctx, "SELECT count(*) FROM information_schema.tables WHERE table_schema=$1 AND table_name NOT LIKE 'schema\\_%'", name).Scan(&tables)
	if err != nil || tables == 0 {
		return err
	}
	return fmt.Errorf("it holds %d tables and no version for the database %q: was a dump restored under another name? The name in its schema_version must be the database's", tables, p.name)
}

func (p *postgres) apply(ctx context.Context, s step, from string) error {
	return pgx.BeginFunc(ctx, p.lock, func(tx pgx.Tx) error {
		for _, file := range s.SchemaUpdateCqlFiles {
			b, err := fs.ReadFile(schema.Assets(), path.Join(s.dir, file))
			if err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, concurrently.ReplaceAllString(string(b), "INDEX")); err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
		}
		if _, err := tx.Exec(ctx, `INSERT INTO schema_version(version_partition, db_name, creation_time, curr_version, min_compatible_version) VALUES (0, $1, now() AT TIME ZONE 'UTC', $2, $3)
			ON CONFLICT (version_partition, db_name) DO UPDATE SET creation_time=excluded.creation_time, curr_version=excluded.curr_version, min_compatible_version=excluded.min_compatible_version`,
			p.name, s.CurrVersion, s.MinCompatibleVersion); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO schema_update_history(version_partition, year, month, update_time, old_version, new_version, description)
			SELECT 0, extract(year FROM t), extract(month FROM t), t, $1::varchar, $2::varchar, $3::varchar FROM (SELECT clock_timestamp() AT TIME ZONE 'UTC' AS t) AS clock`,
			from, s.CurrVersion, s.Description)
		return err
	})
}

// steps of a schema in the order of their versions.
func steps(dir string) ([]step, error) {
	manifests, err := fs.Glob(schema.Assets(), path.Join(dir, "versioned/v*/manifest.json"))
	if err != nil {
		return nil, err
	}
	var all []step
	for _, m := range manifests {
		b, err := fs.ReadFile(schema.Assets(), m)
		if err != nil {
			return nil, err
		}
		s := step{dir: path.Dir(m)}
		if err := json.Unmarshal(b, &s); err != nil {
			return nil, fmt.Errorf("%s: %w", m, err)
		}
		if s.version, err = semver.ParseTolerant(strings.TrimPrefix(path.Base(s.dir), "v")); err != nil {
			return nil, fmt.Errorf("%s: %w", m, err)
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b step) int { return a.version.Compare(b.version) })
	return all, nil
}
