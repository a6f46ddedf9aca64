package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/persistence/sql/sqlplugin/postgresql"
)

const (
	shards         = 4          // each a writer at a time: the way to the database is longer than to a file
	oldestPostgres = 120000     // as server_version_num says it
	lockKey        = 0x75737479 // of the advisory lock; each database has its own
	poolSize       = 8          // connections of each of four services to each of two stores: well below PostgreSQL's 100
	askEvery       = 5 * time.Second
	askFor         = 10 * time.Second
	lockGrace      = 3 * time.Second
	// A session of our own that PostgreSQL has not missed yet (a host lost its power) holds the lock for so long.
	lockPatience = time.Minute
)

// Temporal's two stores are two schemas of one database, so that one pg_dump holds both at one instant.
const (
	mainSchema       = "temporal"
	visibilitySchema = "temporal_visibility"
)

var plainName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]*$`)

// postgres is the store in a PostgreSQL database. Its advisory lock keeps a second process away.
type postgres struct {
	name   string // of the database
	shown  string // without secrets
	params map[string]string
	lock   *pgx.Conn
}

// openPostgres takes the lock and brings the schemas to what this program needs.
func openPostgres(ctx context.Context, o options) (*database, error) {
	p, err := postgresAt(o)
	if err != nil {
		return nil, err
	}
	// PostgreSQL may take a moment to see that the process before us has ended.
	for end := time.Now().Add(lockGrace); ; time.Sleep(100 * time.Millisecond) {
		if err = p.takeLock(ctx); err == nil {
			break
		}
		if !errors.Is(err, errInUse) || time.Now().After(end) {
			return nil, err
		}
	}
	if err := p.upgrade(ctx); err != nil {
		return nil, errors.Join(p.explain(err), p.close())
	}
	return &database{main: p.store(mainSchema), visibility: p.store(visibilitySchema), shards: shards, hold: p.watch, end: p.close}, nil
}

// postgresAt reads the address and the password, which never stands in the address: ps shows that.
func postgresAt(o options) (*postgres, error) {
	u, err := url.Parse(o.db)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return nil, errors.New("--db must be postgres://USER@HOST[:PORT]/DATABASE")
	}
	params := map[string]string{"application_name": "understudy-temporal", "connect_timeout": "10"}
	for k, v := range u.Query() {
		params[k] = v[0]
	}
	_, inURL := u.User.Password()
	if _, asParam := params["password"]; inURL || asParam {
		return nil, errors.New("--db must not hold the password, which ps would show: put it into a file for --db-password-file, or into PGPASSWORD")
	}
	p := &postgres{name: strings.TrimPrefix(u.Path, "/"), shown: u.Redacted(), params: params}
	if !plainName.MatchString(p.name) {
		return nil, fmt.Errorf("--db must end with the name of a database of letters, digits, _ and -, not %q", p.name)
	}
	if h := u.Hostname(); h != "" {
		params["host"] = h
	}
	if u.Port() != "" {
		params["port"] = u.Port()
	}
	if u.User.Username() != "" {
		params["user"] = u.User.Username()
	}
	if params["sslmode"] == "" {
		params["sslmode"] = "verify-full"
		if here(params["host"]) {
			params["sslmode"] = "disable"
		}
	}
	if _, err := pgx.ParseConfig(p.address()); err != nil {
		return nil, fmt.Errorf("--db %s: %w", p.shown, err)
	}
	password, err := passwordOf(o)
	if err != nil {
		return nil, err
	}
	if password != "" {
		params["password"] = password
	}
	return p, nil
}

// here tells whether the way to the server stays on this host.
func here(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || host == "localhost" || strings.HasPrefix(host, "/") || ip != nil && ip.IsLoopback()
}

// passwordOf is empty where PostgreSQL asks for none, as over its unix socket, or ~/.pgpass has it.
func passwordOf(o options) (string, error) {
	if o.dbPasswordFile == "" {
		return os.Getenv("PGPASSWORD"), nil
	}
	info, err := os.Stat(o.dbPasswordFile)
	if err != nil {
		return "", err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("%s can be read by others (mode %04o): chmod 0600 %s", o.dbPasswordFile, info.Mode().Perm(), o.dbPasswordFile)
	}
	b, err := os.ReadFile(o.dbPasswordFile)
	return strings.TrimRight(string(b), "\r\n"), err
}

// address for our own connection. All is in the parameters, as Temporal's plugin escapes only those well.
func (p *postgres) address() string {
	q := url.Values{}
	for k, v := range p.params {
		q.Set(k, v)
	}
	return "postgres:///" + p.name + "?" + q.Encode()
}

func (p *postgres) store(schema string) *config.SQL {
	params := map[string]string{"search_path": schema}
	for k, v := range p.params {
		params[k] = v
	}
	return &config.SQL{
		PluginName: postgresql.PluginNamePGX, DatabaseName: p.name, ConnectAttributes: params,
		MaxConns: poolSize, MaxIdleConns: poolSize, MaxConnLifetime: time.Hour,
	}
}

// takeLock connects anew. PostgreSQL misses a vanished host within half a minute, or its lock would last for hours.
func (p *postgres) takeLock(ctx context.Context) error {
	cfg, err := pgx.ParseConfig(p.address())
	if err != nil {
		return p.explain(err)
	}
	for k, v := range map[string]string{"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"} {
		cfg.RuntimeParams[k] = v
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return p.explain(err)
	}
	var version int
	var got bool
	if err = conn.QueryRow(ctx, "SELECT current_setting('server_version_num')::int, pg_try_advisory_lock($1)", lockKey).Scan(&version, &got); err == nil {
		switch {
		case version < oldestPostgres:
			err = fmt.Errorf("PostgreSQL %d is too old, 12 is needed", version/10000)
		case !got:
			err = errInUse
		}
	}
	if err != nil {
		return errors.Join(p.explain(err), conn.Close(ctx))
	}
	p.lock = conn
	return nil
}

var errInUse = errors.New("another understudy-temporal uses this database")

// explain says which database, and what to do about what people meet first.
func (p *postgres) explain(err error) error {
	hint := ""
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch pg.Code {
		case "28P01":
			hint = ": is the content of --db-password-file (or PGPASSWORD) the password of that user?"
		case "28000":
			hint = ": pg_hba.conf of PostgreSQL does not let this user in this way"
		case "3D000":
			hint = fmt.Sprintf(": createdb --owner USER %s", p.name)
		case "42501":
			hint = fmt.Sprintf(": the user must own the database (ALTER DATABASE %q OWNER TO …)", p.name)
		}
	}
	return fmt.Errorf("database %s: %w%s", p.shown, err, hint)
}

// watch keeps the lock until ctx ends, takes it again after PostgreSQL was away, and ends when somebody else has it.
func (p *postgres) watch(ctx context.Context) error {
	var refused time.Time // since when
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(askEvery):
		}
		err := p.ask(ctx)
		switch {
		case err == nil || !errors.Is(err, errInUse):
			refused = time.Time{}
		case refused.IsZero():
			refused = time.Now()
		case time.Since(refused) > lockPatience:
			return err
		}
	}
}

func (p *postgres) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	if p.lock != nil {
		err := p.lock.Ping(ctx)
		if err == nil {
			return nil
		}
		_ = p.lock.Close(ctx)
		p.lock = nil
	}
	return p.takeLock(ctx)
}

func (p *postgres) close() error {
	if p.lock == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), askFor)
	defer cancel()
	return p.lock.Close(ctx)
}
