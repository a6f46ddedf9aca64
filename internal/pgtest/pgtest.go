// Package pgtest runs a PostgreSQL of Debian for a test: its own cluster in a folder that goes away, on loopback only. The
// nested module of the bundled Temporal has it by a link to this file.
package pgtest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The user of a Server, his database and his password, which an address must escape.
const (
	User     = "understudy"
	Database = "understudy"
	Password = "p a%s&s+w:o/r@d"
)

const patience = time.Minute

// Server is a running PostgreSQL.
type Server struct {
	t    testing.TB
	bin  string
	dir  string
	port int
	who  *syscall.SysProcAttr // PostgreSQL does not run as root
	run  *exec.Cmd
}

// Start runs one until the test ends. Without the package the test is skipped.
func Start(t testing.TB) *Server {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		t.Skip("needs the Debian package postgresql: deploy/setup/install-deps")
	}
	slices.Sort(found)
	dir, err := os.MkdirTemp("", "pgtest") // not t.TempDir, whose parents the user of PostgreSQL cannot enter
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	s := &Server{t: t, bin: filepath.Dir(found[len(found)-1]), dir: dir, port: freePort(t), who: &syscall.SysProcAttr{}}
	if os.Geteuid() == 0 {
		s.becomePostgres()
	}
	s.command("initdb", "--pgdata", s.data(), "--auth-local", "trust", "--auth-host", "scram-sha-256", "--encoding", "UTF8", "--no-locale", "--no-sync")
	s.Restart()
	t.Cleanup(s.Kill)
	s.SQL("postgres", "CREATE ROLE "+User+" LOGIN PASSWORD '"+Password+"'")
	s.SQL("postgres", "CREATE DATABASE "+Database+" OWNER "+User)
	return s
}

// URL of a database, without the password.
func (s *Server) URL(database string) string {
	return fmt.Sprintf("postgres://%s@127.0.0.1:%d/%s", User, s.port, database)
}

// PasswordFile holds the password of User.
func (s *Server) PasswordFile() string {
	s.t.Helper()
	path := filepath.Join(s.t.TempDir(), "password")
	must(s.t, os.WriteFile(path, []byte(Password+"\n"), 0o600))
	return path
}

// SQL runs statements as the superuser and returns what they select.
func (s *Server) SQL(database, statements string) string {
	s.t.Helper()
	return s.command("psql", "--host", s.dir, "--port", strconv.Itoa(s.port), "--dbname", database, "--no-psqlrc", "--quiet", "--tuples-only", "--no-align",
		"--set", "ON_ERROR_STOP=1", "--command", statements)
}

// Tool runs a program of PostgreSQL on a database, as the superuser.
func (s *Server) Tool(name string, args ...string) string {
	s.t.Helper()
	return s.command(name, append([]string{"--host", s.dir, "--port", strconv.Itoa(s.port)}, args...)...)
}

// Load runs the statements of a file as the superuser.
func (s *Server) Load(database, file string) {
	s.t.Helper()
	in, err := os.Open(file)
	must(s.t, err)
	defer func() { _ = in.Close() }()
	cmd := s.prepared("psql", "--host", s.dir, "--port", strconv.Itoa(s.port), "--dbname", database, "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1")
	cmd.Stdin = in
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("psql: %v\n%s", err, out)
	}
}

// Restart starts it, after a Kill too.
func (s *Server) Restart() {
	s.t.Helper()
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(s.t, err)
	defer func() { _ = log.Close() }()
	s.run = exec.Command(filepath.Join(s.bin, "postgres"), "-D", s.data(), "-p", strconv.Itoa(s.port), "-k", s.dir,
		"-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "shared_buffers=32MB")
	who := *s.who
	who.Pdeathsig = syscall.SIGQUIT
	s.run.SysProcAttr, s.run.Dir, s.run.Stdout, s.run.Stderr = &who, s.dir, log, log
	must(s.t, s.run.Start())
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		ready := s.prepared("pg_isready", "--host", "127.0.0.1", "--port", strconv.Itoa(s.port))
		if ready.Run() == nil {
			return
		}
		if time.Now().After(end) {
			out, _ := os.ReadFile(log.Name())
			s.t.Fatalf("PostgreSQL does not start: %s", out)
		}
	}
}

// Kill ends it without a shutdown, with all its processes.
func (s *Server) Kill() {
	if s.run == nil {
		return
	}
	_ = s.run.Process.Signal(syscall.SIGQUIT)
	_ = s.run.Wait()
	s.run = nil
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

func (s *Server) becomePostgres() {
	u, err := user.Lookup("postgres")
	must(s.t, err)
	uid, err := strconv.Atoi(u.Uid)
	must(s.t, err)
	gid, err := strconv.Atoi(u.Gid)
	must(s.t, err)
	must(s.t, os.Chown(s.dir, uid, gid))
	s.who.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

func (s *Server) prepared(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.SysProcAttr, cmd.Dir = s.who, s.dir
	cmd.Env = slices.DeleteFunc(append(os.Environ(), "LC_ALL=C.UTF-8"), func(e string) bool { return strings.HasPrefix(e, "PG") })
	if s.who.Credential != nil {
		cmd.Env = append(cmd.Env, "PGUSER=postgres", "HOME="+s.dir)
	}
	return cmd
}

func (s *Server) command(name string, args ...string) string {
	s.t.Helper()
	out, err := s.prepared(name, args...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func freePort(t testing.TB) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
