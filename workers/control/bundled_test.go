package control

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/model"
)

// safeBuffer is a log that is read while it is written.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func script(t *testing.T, body string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "understudy-temporal")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755))
	return path
}

// supervise runs a bundled child until the test ends, or until the returned function is called.
func supervise(t *testing.T, body string) (b *bundled, log *safeBuffer, end func()) {
	t.Helper()
	log = &safeBuffer{}
	b = &bundled{binary: script(t, body), args: []string{t.TempDir()}, log: slog.New(slog.NewTextHandler(log, nil))}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.run(ctx)
	}()
	end = func() {
		cancel()
		<-done
	}
	t.Cleanup(end)
	return b, log, end
}

func readPID(t *testing.T, b *bundled) int {
	t.Helper()
	pid := 0
	require.Eventually(t, func() bool {
		raw, err := os.ReadFile(filepath.Join(b.args[0], "pid"))
		if err == nil {
			pid, err = strconv.Atoi(strings.TrimSpace(string(raw)))
		}
		return err == nil
	}, 10*time.Second, 10*time.Millisecond)
	return pid
}

func TestAChildThatDiesIsStartedAgain(t *testing.T) {
	b, log, _ := supervise(t, `echo "run in $1"; echo x >>"$1/starts"; exit 3`)
	require.Eventually(t, func() bool {
		raw, err := os.ReadFile(filepath.Join(b.args[0], "starts"))
		return err == nil && len(raw) >= 4
	}, 20*time.Second, 20*time.Millisecond)
	require.Contains(t, log.String(), "exit status 3")
	require.Contains(t, log.String(), "run in ")
	require.GreaterOrEqual(t, b.restarts.Load(), int64(1))
}

func TestTheChildEndsWithUs(t *testing.T) {
	b, log, end := supervise(t, `echo $$ >"$1/pid"; exec sleep 600`)
	pid := readPID(t, b)
	require.True(t, b.running.Load())
	end()
	require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH)
	require.NotContains(t, log.String(), "temporal_died", "an end on purpose is no death")
}

func TestABinaryThatIsMissingIsSaidAtOnce(t *testing.T) {
	_, err := findBinary(filepath.Join(t.TempDir(), "nothing"))
	require.Equal(t, model.InvalidArgument, model.KindOf(err))
}

func TestOnlyOneServerOwnsTheRecords(t *testing.T) {
	dir := t.TempDir()
	release, err := own(dir)
	require.NoError(t, err)
	_, err = own(dir)
	require.Equal(t, model.Conflict, model.KindOf(err))
	require.ErrorContains(t, err, strconv.Itoa(os.Getpid()))
	release()
	release, err = own(dir)
	require.NoError(t, err)
	release()
}

func TestEndlessOutputOfTheChildIsCutIntoLines(t *testing.T) {
	log := &safeBuffer{}
	l := &lines{log: slog.New(slog.NewTextHandler(log, nil))}
	chunk := bytes.Repeat([]byte("x"), 1500)
	for range 100 {
		_, err := l.Write(chunk)
		require.NoError(t, err)
		require.Less(t, len(l.rest), maxLine)
	}
	_, err := l.Write([]byte("\nlast"))
	require.NoError(t, err)
	l.flush()
	require.Contains(t, log.String(), "line=last")
}

func TestOptionsAreRefusedBeforeAnythingStarts(t *testing.T) {
	good := Options{Namespace: "understudy", IP: "127.0.0.1", TemporalPort: 7233, UIPort: 8233, DataDir: "/nowhere"}
	require.NoError(t, good.validate())
	for _, spoil := range []func(*Options){
		func(o *Options) { o.IP = "localhost" }, func(o *Options) { o.TemporalPort = 0 }, func(o *Options) { o.UIPort = 70000 }, func(o *Options) { o.Namespace = "" },
	} {
		o := good
		spoil(&o)
		err := Run(t.Context(), o, slog.New(slog.DiscardHandler))
		var f *model.Failure
		require.True(t, errors.As(err, &f))
		require.Equal(t, model.InvalidArgument, f.Kind)
	}
}
