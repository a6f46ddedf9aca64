package control

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sort"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"understudy/internal/model"
	"understudy/workers"
)

const (
	temporalBinary = "understudy-temporal"
	firstBackoff   = 500 * time.Millisecond
	maxBackoff     = 5 * time.Second
	settled        = 30 * time.Second // a child that lived so long starts the back-off anew
	childGrace     = 10 * time.Second
)

// bundled supervises the single-node Temporal. Its death loses nothing: what it had committed is in its file, agents and
// worker reconnect by themselves, and who may run a VM is recorded elsewhere.
type bundled struct {
	binary   string
	args     []string
	log      *slog.Logger
	running  atomic.Bool
	restarts atomic.Int64
}

func newBundled(o Options, log *slog.Logger) (*bundled, error) {
	binary, err := findBinary(o.TemporalBinary)
	if err != nil {
		return nil, err
	}
	return &bundled{binary: binary, args: bundledArgs(o), log: log}, nil
}

func findBinary(given string) (string, error) {
	if given != "" {
		path, err := exec.LookPath(given)
		if err != nil {
			return "", model.Fail(model.InvalidArgument, err, "--temporal-binary %s cannot be run", given)
		}
		return path, nil
	}
	if self, err := os.Executable(); err == nil {
		if path, err := exec.LookPath(filepath.Join(filepath.Dir(self), temporalBinary)); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath(temporalBinary)
	if err != nil {
		return "", model.Fail(model.Internal, err, "%s is neither beside this program nor in PATH", temporalBinary).
			WithTry("make build, or --temporal-binary PATH, or --temporal-address HOST:PORT of your own cluster")
	}
	return path, nil
}

func bundledArgs(o Options) []string {
	args := []string{
		"--ip", o.IP, "--port", strconv.Itoa(o.TemporalPort), "--ui-port", strconv.Itoa(o.UIPort),
		"--namespace", o.Namespace, "--retention", workers.Retention.String(), "--log-level", "warn",
	}
	file := filepath.Join(o.DataDir, "temporal.db")
	if o.TemporalDB != "" {
		args = append(args, "--db", o.TemporalDB, "--token-key", file+".tokens")
		if o.DBPasswordFile != "" {
			args = append(args, "--db-password-file", o.DBPasswordFile)
		}
	} else {
		args = append(args, "--db-filename", file)
	}
	if o.TLSDir != "" {
		args = append(args, "--tls-dir", o.TLSDir)
	}
	if o.UIIP != "" {
		args = append(args, "--ui-ip", o.UIIP)
	}
	var attrs []string
	for name, typ := range workers.SearchAttributes() {
		attrs = append(attrs, name+"="+typ.String())
	}
	sort.Strings(attrs)
	for _, a := range attrs {
		args = append(args, "--search-attribute", a)
	}
	return args
}

// run keeps the child alive until ctx ends, then ends it.
func (b *bundled) run(ctx context.Context) {
	// The kernel sends Pdeathsig when the thread that started the child ends, not the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	wait := firstBackoff
	for ctx.Err() == nil {
		started := time.Now()
		err := b.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(started) > settled {
			wait = firstBackoff
		}
		b.restarts.Add(1)
		b.log.Error("temporal_died", "error", err, "lived", time.Since(started).Round(time.Millisecond).String(), "again_in", wait.String())
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, maxBackoff)
	}
}

// once runs the child until it dies or ctx ends; then it gets SIGTERM and a while.
func (b *bundled) once(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, b.binary, b.args...)
	// A group of its own: Ctrl-C on a terminal must reach us first, so that the worker stops before its Temporal.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = childGrace
	out := &lines{log: b.log}
	cmd.Stdout, cmd.Stderr = out, out // the same writer: os/exec then never writes from two goroutines
	if err := cmd.Start(); err != nil {
		return err
	}
	b.running.Store(true)
	defer b.running.Store(false)
	b.log.Info("temporal_started", "pid", cmd.Process.Pid, "binary", b.binary)
	err := cmd.Wait()
	out.flush()
	return err
}

// lines passes the child's output on to our log, line by line.
type lines struct {
	log  *slog.Logger
	rest []byte
}

const maxLine = 4096

func (l *lines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		i := bytes.IndexByte(l.rest, '\n')
		if i < 0 && len(l.rest) < maxLine {
			return len(p), nil
		}
		if i < 0 || i > maxLine {
			i = maxLine
			l.emit(l.rest[:i])
			l.rest = l.rest[i:]
			continue
		}
		l.emit(l.rest[:i])
		l.rest = l.rest[i+1:]
	}
}

func (l *lines) flush() {
	l.emit(l.rest)
	l.rest = nil
}

func (l *lines) emit(b []byte) {
	if b = bytes.TrimSpace(b); len(b) > 0 {
		l.log.Info("temporal", "line", string(b))
	}
}
