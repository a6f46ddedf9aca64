package qemunbd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/blockio"
	"understudy/internal/blockio/blockiotest"
	"understudy/internal/blockio/qemunbd"
)

func options(t testing.TB, image string, format qemunbd.Format) qemunbd.Options {
	t.Helper()
	blockiotest.Tool(t, "qemu-nbd")
	return qemunbd.Options{
		Image:  qemunbd.Layer{Path: image, Format: format},
		Socket: filepath.Join(blockiotest.Folder(t), "s"),
	}
}

func start(t testing.TB, opts qemunbd.Options) *qemunbd.Server {
	t.Helper()
	s, err := qemunbd.Start(context.Background(), opts)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Stop(context.Background()) })
	return s
}

// gone tells that a process is no more (or a zombie somebody else must reap).
func gone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || bytes.Contains(stat, []byte(") Z "))
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for limit := time.Now().Add(15 * time.Second); !f(); time.Sleep(2 * time.Millisecond) {
		require.True(t, time.Now().Before(limit), what)
	}
}

// TestLife: start, use, stop; what is flushed is there at the next start.
func TestLife(t *testing.T) {
	blockiotest.NoLeak(t)
	ctx := context.Background()
	opts := options(t, blockiotest.Image(t, "1M"), qemunbd.Qcow2)
	for round := range 3 {
		s := start(t, opts)
		t.Logf("ready after %v", s.StartTime())
		st, err := os.Lstat(s.Socket())
		require.NoError(t, err)
		require.Equal(t, os.ModeSocket|0o600, st.Mode())
		c, err := s.Connect(ctx)
		require.NoError(t, err)
		p := make([]byte, 1)
		require.NoError(t, c.ReadAt(ctx, p, 0))
		require.Equal(t, byte(round), p[0])
		require.NoError(t, c.WriteAt(ctx, []byte{byte(round) + 1}, 0))
		require.NoError(t, c.Flush(ctx))
		if round == 2 { // with a client still there
			require.NoError(t, s.Stop(ctx))
			require.ErrorIs(t, c.ReadAt(ctx, p, 0), blockio.ErrDisconnected)
			require.NoError(t, c.Close())
		} else {
			require.NoError(t, c.Close())
			require.NoError(t, s.Stop(ctx))
		}
		require.NoError(t, s.Stop(ctx))
		require.NoError(t, s.Err())
		require.True(t, gone(s.Pid()))
		require.NoFileExists(t, s.Socket())
	}
}

// TestNamesAreNotSyntax: no byte of a file name means anything to qemu-nbd.
func TestNamesAreNotSyntax(t *testing.T) {
	ctx := context.Background()
	for _, name := range []string{
		"plain", "a,b=c", `json:{"driver":"null-co"}`, "nbd:unix:x", "file:y", "--help", "-f", `quote"back\slash`,
		"dot..dot", "spa ce", "new\nline", "<&>", "ümläut \u2028", "per%cent%20", "drv=qcow2,file.filename=z",
	} {
		for _, format := range []qemunbd.Format{qemunbd.Raw, qemunbd.Qcow2} {
			dir := blockiotest.Folder(t)
			path := filepath.Join(dir, name)
			if format == qemunbd.Raw {
				require.NoError(t, os.WriteFile(path, bytes.Repeat([]byte{'R'}, 1<<20), 0o600))
			} else {
				require.NoError(t, os.Rename(blockiotest.Image(t, "1M"), path))
			}
			s := start(t, options(t, path, format))
			c, err := s.Connect(ctx)
			require.NoError(t, err, name)
			require.Equal(t, int64(1<<20), c.Size(), name)
			p := make([]byte, 1)
			require.NoError(t, c.ReadAt(ctx, p, 77))
			require.Equal(t, format == qemunbd.Raw, p[0] == 'R', name)
			require.NoError(t, c.Close())
			require.NoError(t, s.Stop(ctx), name)
			entries, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Len(t, entries, 1, name)
		}
	}
}

// TestRawIsNotProbed: a guest that writes a qcow2 header onto its raw disk gets what it
// wrote, and no file that the header names.
func TestRawIsNotProbed(t *testing.T) {
	ctx := context.Background()
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, bytes.Repeat([]byte{'S'}, 1<<20), 0o600))
	evil := blockiotest.Image(t, "1M", "-b", secret, "-F", "raw")
	s := start(t, options(t, evil, qemunbd.Raw))
	c, err := s.Connect(ctx)
	require.NoError(t, err)
	defer c.Close()
	p := make([]byte, 4)
	require.NoError(t, c.ReadAt(ctx, p, 0))
	require.Equal(t, "QFI\xfb", string(p))
}

// TestChain: the chain must be what the headers say, and then is what is served, not
// the names in the headers.
func TestChain(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	base := filepath.Join(dir, "base")
	require.NoError(t, os.WriteFile(base, bytes.Repeat([]byte{'B'}, 1<<20), 0o600))
	other := filepath.Join(dir, "other")
	require.NoError(t, os.WriteFile(other, bytes.Repeat([]byte{'O'}, 1<<20), 0o600))
	middle := blockiotest.Image(t, "1M", "-b", base, "-F", "raw")
	top := blockiotest.Image(t, "1M", "-b", middle, "-F", "qcow2", "-o", "extended_l2=on")
	plain := blockiotest.Image(t, "1M")
	data := filepath.Join(dir, "data")
	split := blockiotest.Image(t, "1M", "-o", "data_file="+data)
	l := func(p string) qemunbd.Layer { return qemunbd.Layer{Path: p, Format: qemunbd.Qcow2} }
	r := func(p string) qemunbd.Layer { return qemunbd.Layer{Path: p, Format: qemunbd.Raw} }
	with := func(p, data string) qemunbd.Layer {
		return qemunbd.Layer{Path: p, Format: qemunbd.Qcow2, DataFile: data}
	}
	for _, c := range []struct {
		name  string
		chain []qemunbd.Layer
		want  byte
		err   error
	}{
		{"whole", []qemunbd.Layer{l(top), l(middle), r(base)}, 'B', nil},
		{"another base than the header's", []qemunbd.Layer{l(top), l(middle), r(other)}, 'O', nil},
		{"cut at the top", []qemunbd.Layer{l(top)}, 0, qemunbd.ErrBackingMismatch},
		{"cut below", []qemunbd.Layer{l(top), l(middle)}, 0, qemunbd.ErrBackingMismatch},
		{"too long", []qemunbd.Layer{l(plain), r(base)}, 0, qemunbd.ErrBackingMismatch},
		{"raw on top of something", []qemunbd.Layer{r(base), r(other)}, 0, qemunbd.ErrBackingMismatch},
		{"data file", []qemunbd.Layer{with(split, data)}, 0, nil},
		{"data file not given", []qemunbd.Layer{l(split)}, 0, qemunbd.ErrDataFileMismatch},
		{"data file too many", []qemunbd.Layer{with(plain, data)}, 0, qemunbd.ErrDataFileMismatch},
		{"not qcow2", []qemunbd.Layer{l(base)}, 0, qemunbd.ErrBadImage},
		{"absent", []qemunbd.Layer{l(filepath.Join(dir, "absent"))}, 0, os.ErrNotExist},
		{"relative", []qemunbd.Layer{r("base")}, 0, qemunbd.ErrBadImage},
		{"not UTF-8", []qemunbd.Layer{r("/tmp/\xff")}, 0, qemunbd.ErrBadImage},
		{"NUL", []qemunbd.Layer{r("/tmp/\x00")}, 0, qemunbd.ErrBadImage},
		{"no format", []qemunbd.Layer{{Path: base}}, 0, qemunbd.ErrBadImage},
		{"other format", []qemunbd.Layer{{Path: base, Format: "vmdk"}}, 0, qemunbd.ErrBadImage},
	} {
		t.Run(c.name, func(t *testing.T) {
			blockiotest.NoLeak(t)
			opts := options(t, "", "")
			opts.Image, opts.Backing = c.chain[0], c.chain[1:]
			s, err := qemunbd.Start(ctx, opts)
			if c.err != nil {
				require.ErrorIs(t, err, c.err)
				return
			}
			require.NoError(t, err)
			client, err := s.Connect(ctx)
			require.NoError(t, err)
			p := make([]byte, 1)
			require.NoError(t, client.ReadAt(ctx, p, 4711))
			require.Equal(t, c.want, p[0])
			require.NoError(t, client.Close())
			require.NoError(t, s.Stop(ctx))
		})
	}
}

// TestFailures: what cannot work fails soon, says why, and leaves nothing behind.
func TestFailures(t *testing.T) {
	blockiotest.NoLeak(t)
	ctx := context.Background()
	image := blockiotest.Image(t, "1M")
	good := options(t, image, qemunbd.Qcow2)
	for _, c := range []struct {
		name   string
		change func(*qemunbd.Options)
		want   error
		words  string
	}{
		{"unknown bitmap", func(o *qemunbd.Options) { o.ReadOnly, o.Bitmap = true, "nix" }, nil, "nix"},
		{"bad cache", func(o *qemunbd.Options) { o.Cache = "weird" }, nil, "weird"},
		{"no binary", func(o *qemunbd.Options) { o.Binary = "/nonexistent/qemu-nbd" }, os.ErrNotExist, ""},
		{"other binary", func(o *qemunbd.Options) { o.Binary = "true" }, nil, "ended"},
		{"hanging binary", func(o *qemunbd.Options) {
			o.Binary, o.StartTimeout = hang(t), 100*time.Millisecond
		}, context.DeadlineExceeded, "in time"},
		{"long socket", func(o *qemunbd.Options) { o.Socket = "/" + strings.Repeat("x", 107) }, nil, "107"},
		{"relative socket", func(o *qemunbd.Options) { o.Socket = "s" }, qemunbd.ErrBadImage, ""},
		{"open folder", func(o *qemunbd.Options) { o.Socket = "/tmp/s" }, qemunbd.ErrSocketFolder, ""},
		{"no folder", func(o *qemunbd.Options) { o.Socket = "/nonexistent/s" }, os.ErrNotExist, ""},
		{"file for socket", func(o *qemunbd.Options) { o.Socket = image }, nil, "not a socket"},
		{"forced and writable", func(o *qemunbd.Options) { o.ForceShare = true }, nil, "ReadOnly"},
	} {
		t.Run(c.name, func(t *testing.T) {
			opts := good
			c.change(&opts)
			begin := time.Now()
			_, err := qemunbd.Start(ctx, opts)
			require.Error(t, err)
			if c.want != nil {
				require.ErrorIs(t, err, c.want)
			}
			require.ErrorContains(t, err, c.words)
			require.Less(t, time.Since(begin), 10*time.Second)
			require.NoFileExists(t, good.Socket)
		})
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	_, err := qemunbd.Start(cancelled, good)
	require.ErrorIs(t, err, context.Canceled)
}

// hang makes a program that takes any arguments and does nothing for long.
func hang(t testing.TB) string {
	path := filepath.Join(t.TempDir(), "hang")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 0.05; done\n"), 0o700))
	return path
}

// TestLocked: QEMU's own image lock is respected, and ForceShare reads in spite of it.
func TestLocked(t *testing.T) {
	ctx := context.Background()
	image := blockiotest.Image(t, "1M")
	start(t, options(t, image, qemunbd.Qcow2))
	second := options(t, image, qemunbd.Qcow2)
	_, err := qemunbd.Start(ctx, second)
	var exit *qemunbd.ExitError
	require.ErrorAs(t, err, &exit)
	require.Contains(t, exit.Stderr, "lock")
	second.ReadOnly = true
	_, err = qemunbd.Start(ctx, second)
	require.ErrorAs(t, err, &exit)
	second.ForceShare = true
	require.NoError(t, start(t, second).Stop(ctx))
}

// TestSockets: a dead socket is replaced, a live one is left alone.
func TestSockets(t *testing.T) {
	ctx := context.Background()
	opts := options(t, blockiotest.Image(t, "1M"), qemunbd.Qcow2)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: opts.Socket, Net: "unix"})
	require.NoError(t, err)
	l.SetUnlinkOnClose(false)
	_, err = qemunbd.Start(ctx, opts)
	require.ErrorIs(t, err, qemunbd.ErrSocketInUse)
	require.NoError(t, l.Close())
	require.FileExists(t, opts.Socket)
	require.NoError(t, start(t, opts).Stop(ctx))
}

// TestKilled: the end of the process is told, with its reason.
func TestKilled(t *testing.T) {
	blockiotest.NoLeak(t)
	ctx := context.Background()
	s := start(t, options(t, blockiotest.Image(t, "1M"), qemunbd.Qcow2))
	require.NoError(t, s.Err())
	require.NoError(t, syscall.Kill(s.Pid(), syscall.SIGKILL))
	<-s.Done()
	var exit *qemunbd.ExitError
	require.ErrorAs(t, s.Err(), &exit)
	require.Contains(t, exit.State, "killed")
	_, err := s.Connect(ctx)
	require.ErrorIs(t, err, blockio.ErrDisconnected)
	require.ErrorAs(t, s.Stop(ctx), &exit)
	require.NoFileExists(t, s.Socket())
}

// TestStopped: a process that does not react to SIGTERM is killed.
func TestStopped(t *testing.T) {
	opts := options(t, blockiotest.Image(t, "1M"), qemunbd.Qcow2)
	opts.StopTimeout = 100 * time.Millisecond
	s := start(t, opts)
	require.NoError(t, syscall.Kill(s.Pid(), syscall.SIGSTOP))
	var exit *qemunbd.ExitError
	require.ErrorAs(t, s.Stop(context.Background()), &exit)
	require.Contains(t, exit.State, "killed")
	require.True(t, gone(s.Pid()))
}

// TestDiesWithUs: kill -9 of the parent takes qemu-nbd along, and not the end of
// whichever thread happened to start it.
func TestDiesWithUs(t *testing.T) {
	if image := os.Getenv("QEMUNBD_TEST_PARENT"); image != "" {
		s := start(t, options(t, image, qemunbd.Qcow2))
		fmt.Printf("\nPID %d\n", s.Pid())
		_, _ = io.Copy(io.Discard, os.Stdin)
		return
	}
	image := blockiotest.Image(t, "1M")
	blockiotest.Tool(t, "qemu-nbd")
	parent := exec.Command(os.Args[0], "-test.run=^TestDiesWithUs$", "-test.v")
	parent.Env = append(os.Environ(), "QEMUNBD_TEST_PARENT="+image)
	stdin, err := parent.StdinPipe()
	require.NoError(t, err)
	defer stdin.Close()
	stdout, err := parent.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, parent.Start())
	pid, out := 0, ""
	for buf := make([]byte, 4096); pid == 0; {
		n, err := stdout.Read(buf)
		require.NoError(t, err, out)
		out += string(buf[:n])
		if _, rest, ok := strings.Cut(out, "PID "); ok && strings.Contains(rest, "\n") {
			pid, err = strconv.Atoi(strings.TrimSpace(strings.SplitN(rest, "\n", 2)[0]))
			require.NoError(t, err)
		}
	}
	time.Sleep(200 * time.Millisecond)
	require.False(t, gone(pid), "it must live as long as its parent")
	require.NoError(t, parent.Process.Kill())
	_ = parent.Wait()
	eventually(t, "qemu-nbd outlives its parent", func() bool { return gone(pid) })
}

// TestExitErrorWords keeps the message in shape for an operator.
func TestExitErrorWords(t *testing.T) {
	var err error = &qemunbd.ExitError{Image: "/x", State: "exit status 1", Stderr: "boom"}
	require.EqualError(t, err, "qemunbd: qemu-nbd for /x ended: exit status 1: boom")
	require.False(t, errors.Is(err, blockio.ErrDisconnected))
}
