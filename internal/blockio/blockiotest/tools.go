package blockiotest

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// Tool skips the test if a program is not installed.
func Tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed (Debian packages qemu-utils, nbdkit)", name)
	}
	return path
}

// Run runs a program to its end and fails the test if it fails.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(Tool(t, name), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// Folder gives a private folder with a path short enough for a unix socket.
func Folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bio")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// Image makes a qcow2 image with qemu-img and returns its path.
func Image(t testing.TB, size string, options ...string) string {
	t.Helper()
	path := filepath.Join(Folder(t), "disk.qcow2")
	Run(t, "qemu-img", append(append([]string{"create", "-q", "-f", "qcow2"}, options...), path, size)...)
	return path
}

// Nbdkit runs nbdkit on a unix socket for the length of the test; args are filters,
// plugin and parameters. It returns the socket and the process.
func Nbdkit(t testing.TB, args ...string) (socket string, proc *os.Process) {
	t.Helper()
	bin := Tool(t, "nbdkit")
	socket = filepath.Join(Folder(t), "s")
	cmd := exec.Command(bin, append([]string{"--foreground", "--unix", socket}, args...)...)
	log, err := os.Create(socket + ".log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-exited })
	for limit := time.Now().Add(20 * time.Second); ; {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			_ = conn.Close()
			return socket, cmd.Process
		}
		select {
		case <-exited:
			words, _ := os.ReadFile(socket + ".log")
			t.Fatalf("nbdkit %q ended: %s", args, words)
		case <-time.After(2 * time.Millisecond):
		}
		if time.Now().After(limit) || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("nbdkit %q: %v", args, err)
		}
	}
}

// NoLeak fails the test if it ends with more goroutines than it began with. Call it
// first, and not in parallel tests.
func NoLeak(t testing.TB) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for limit := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; {
			if time.Now().After(limit) {
				buf := make([]byte, 1<<20)
				t.Fatalf("goroutines leaked: %d before, %d after\n%s", before, runtime.NumGoroutine(), buf[:runtime.Stack(buf, true)])
			}
			time.Sleep(2 * time.Millisecond)
		}
	})
}
