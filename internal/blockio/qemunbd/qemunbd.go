// Package qemunbd runs one supervised qemu-nbd process for one disk image, on a unix
// socket. The process dies with us: it is told to end when our process does.
//
// Nothing that comes from outside is ever parsed by qemu-nbd: not a file name, and no
// backing or data file named in a header (see Layer).
package qemunbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"understudy/internal/blockio"
	"understudy/internal/blockio/nbd"
)

const (
	// DefaultStartTimeout bounds the time from exec to the server's greeting. It takes
	// 13 to 25 ms on a quiet machine.
	DefaultStartTimeout = 15 * time.Second
	// DefaultStopTimeout is what SIGTERM is given before SIGKILL: at its end qemu-nbd
	// writes back what it caches, metadata and bitmaps.
	DefaultStopTimeout = 15 * time.Second

	// killWait is what SIGKILL is given.
	killWait = 10 * time.Second

	maxSocketPath = 107 // sun_path without its NUL
	stderrTail    = 4 << 10
)

// Cache is qemu-nbd's cache mode.
type Cache string

// Cache modes. With each of them, only an NBD flush makes writes durable.
const (
	Writeback Cache = "writeback" // through the page cache; the default
	None      Cache = "none"      // O_DIRECT
)

// Options says what to serve and how.
type Options struct {
	// Image is the image to serve, Backing what lies below it, nearest first. The chain
	// must be complete: see ErrBackingMismatch.
	Image   Layer
	Backing []Layer

	// Socket is the absolute path of the unix socket, at most 107 bytes. Its folder must
	// exist, belong to us, and be closed to everybody else (0700): it is what keeps
	// others out before the socket's own mode is set to 0600. A dead socket in its place
	// is removed, a live one is ErrSocketInUse.
	Socket string

	// Export is the export's name; "" is the default export.
	Export string
	// Bitmap, if not empty, is the persistent dirty bitmap to export. It must be in the
	// image, or in its backing chain, and not be "in-use".
	Bitmap string

	ReadOnly bool
	// ForceShare serves an image that another process has open for writing; it needs
	// ReadOnly, and what is read may be torn.
	ForceShare bool
	Cache      Cache // "" is Writeback
	// Shared is how many clients may be connected at once; 0 is 1. One more than are
	// needed lets a new client in while the kernel still buries an old one.
	Shared int

	Binary       string        // "" finds qemu-nbd in PATH
	StartTimeout time.Duration // 0 is DefaultStartTimeout
	StopTimeout  time.Duration // 0 is DefaultStopTimeout
}

var (
	// ErrSocketInUse: another server listens on the socket.
	ErrSocketInUse = errors.New("qemunbd: another server listens on the socket")
	// ErrSocketFolder: the socket's folder is not ours alone.
	ErrSocketFolder = errors.New("qemunbd: the socket's folder must belong to us and be closed to others")
	// ErrStuck: the process outlives SIGKILL, so it hangs in the kernel on its disk, and
	// may yet write to the image: nobody else must until it is gone.
	ErrStuck = errors.New("qemunbd: qemu-nbd does not die; it may still write to the image")
)

// ExitError tells how qemu-nbd ended when it should not have, or not in this way.
type ExitError struct {
	Image  string
	State  string // as "exit status 1", "signal: killed"
	Stderr string // its last words; they may quote the image's content
}

func (e *ExitError) Error() string {
	s := fmt.Sprintf("qemunbd: qemu-nbd for %s ended: %s", e.Image, e.State)
	if e.Stderr != "" {
		s += ": " + e.Stderr
	}
	return s
}

// Server is a running qemu-nbd.
type Server struct {
	opts    Options
	pid     int
	started time.Duration
	stderr  *tail
	proc    *os.Process
	exited  chan struct{} // closed when the process is gone and reaped
	state   error         // what Wait said; read after exited

	stopMu sync.Mutex
}

// Start runs qemu-nbd and returns when it greets a client, so that the image is open
// and a connection will be served. ctx bounds the start only; on failure nothing is
// left behind.
func Start(ctx context.Context, opts Options) (*Server, error) {
	args, err := opts.prepare()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, opts.StartTimeout)
	defer cancel()
	begin := time.Now()
	s := &Server{opts: opts, stderr: &tail{}, exited: make(chan struct{})}
	if err := s.spawn(args); err != nil {
		return nil, err
	}
	if err = s.ready(ctx); err == nil {
		err = os.Chmod(opts.Socket, 0o600)
	}
	if err != nil {
		return nil, errors.Join(err, s.kill())
	}
	s.started = time.Since(begin)
	return s, nil
}

// prepare fills in defaults, checks everything that can be checked before the start,
// and makes the arguments.
func (o *Options) prepare() ([]string, error) {
	if o.StartTimeout <= 0 {
		o.StartTimeout = DefaultStartTimeout
	}
	if o.StopTimeout <= 0 {
		o.StopTimeout = DefaultStopTimeout
	}
	if o.Cache == "" {
		o.Cache = Writeback
	}
	o.Shared = max(o.Shared, 1)
	if o.Binary == "" {
		o.Binary = "qemu-nbd"
	}
	if o.ForceShare && !o.ReadOnly {
		return nil, errors.New("qemunbd: ForceShare needs ReadOnly")
	}
	chain := append([]Layer{o.Image}, o.Backing...)
	if err := checkChain(chain); err != nil {
		return nil, err
	}
	if err := o.checkSocket(); err != nil {
		return nil, err
	}
	image, err := blockdev(chain, o)
	if err != nil {
		return nil, err
	}
	args := []string{
		"--persistent", "--socket=" + o.Socket, "--shared=" + strconv.Itoa(o.Shared),
		"--cache=" + string(o.Cache), "--export-name=" + o.Export,
	}
	if o.ReadOnly {
		args = append(args, "--read-only")
	} else {
		args = append(args, "--discard=unmap")
	}
	if o.Bitmap != "" {
		args = append(args, "--bitmap="+o.Bitmap)
	}
	return append(args, "--", image), nil
}

// checkSocket checks the folder and clears a dead socket away.
func (o *Options) checkSocket() error {
	if err := checkPath(o.Socket); err != nil {
		return err
	}
	if len(o.Socket) > maxSocketPath {
		return fmt.Errorf("qemunbd: socket path of %d bytes, the kernel takes %d: %s", len(o.Socket), maxSocketPath, o.Socket)
	}
	st, err := os.Stat(filepath.Dir(o.Socket))
	if err != nil {
		return fmt.Errorf("qemunbd: %w", err)
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok || !st.IsDir() || st.Mode().Perm()&0o077 != 0 || sys.Uid != uint32(os.Geteuid()) {
		return fmt.Errorf("%s: %w", filepath.Dir(o.Socket), ErrSocketFolder)
	}
	switch st, err := os.Lstat(o.Socket); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("qemunbd: %w", err)
	case st.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("qemunbd: %s is there and not a socket", o.Socket)
	}
	conn, err := net.DialTimeout("unix", o.Socket, time.Second)
	if err == nil {
		_ = conn.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%s: %w", o.Socket, ErrSocketInUse)
	}
	if err := os.Remove(o.Socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("qemunbd: %w", err)
	}
	return nil
}

// spawn starts the process from a goroutine that keeps its thread until the process is
// gone: PR_SET_PDEATHSIG fires when the parent *thread* dies.
func (s *Server) spawn(args []string) error {
	cmd := exec.Command(s.opts.Binary, args...)
	cmd.Stderr = s.stderr
	cmd.Dir = "/"
	cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig: syscall.SIGTERM, // with time to write metadata back
		Setpgid:   true,            // a Ctrl-C on our terminal is for us to handle
	}
	cmd.WaitDelay = time.Second
	up := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			up <- fmt.Errorf("qemunbd: %w", err)
			return
		}
		up <- nil
		s.state = cmd.Wait()
		close(s.exited)
	}()
	if err := <-up; err != nil {
		return err
	}
	s.proc, s.pid = cmd.Process, cmd.Process.Pid
	return nil
}

// ready waits for the greeting. Before the socket is there the only way to know is to
// look again; the looks get rarer from 1 ms to 20 ms.
func (s *Server) ready(ctx context.Context) error {
	pause := time.Millisecond
	for {
		err := greeted(ctx, s.opts.Socket)
		if err == nil {
			return nil
		}
		select {
		case <-s.exited:
			return s.exitError()
		case <-ctx.Done():
			return fmt.Errorf("qemunbd: qemu-nbd for %s did not come up in time: %w (last try: %w)", s.opts.Image.Path, ctx.Err(), err)
		case <-time.After(pause):
		}
		pause = min(pause*5/4+time.Microsecond, 20*time.Millisecond)
	}
}

// greeted connects and reads the first word of the NBD greeting.
func greeted(ctx context.Context, socket string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var p [8]byte
	if _, err := io.ReadFull(conn, p[:]); err != nil {
		return err
	}
	if binary.BigEndian.Uint64(p[:]) != 0x4e42444d41474943 { // "NBDMAGIC"
		return errors.New("not an NBD server")
	}
	return nil
}

// Connect opens a connection to the server, with the bitmap of the options.
func (s *Server) Connect(ctx context.Context) (*nbd.Client, error) {
	c, err := nbd.DialUnix(ctx, s.opts.Socket, nbd.Options{Export: s.opts.Export, Bitmap: s.opts.Bitmap})
	if err != nil {
		select {
		case <-s.exited:
			return nil, fmt.Errorf("%w: %w", blockio.ErrDisconnected, s.exitError())
		default:
		}
	}
	return c, err
}

// Socket is the path of the socket.
func (s *Server) Socket() string { return s.opts.Socket }

// Pid is the process id, valid until Done is closed.
func (s *Server) Pid() int { return s.pid }

// StartTime is what it took from exec to the greeting.
func (s *Server) StartTime() time.Duration { return s.started }

// Done is closed when the process has ended, by Stop or by itself.
func (s *Server) Done() <-chan struct{} { return s.exited }

// Err is nil while the process runs and after an orderly end, else an *ExitError.
func (s *Server) Err() error {
	select {
	case <-s.exited:
	default:
		return nil
	}
	if s.state == nil {
		return nil
	}
	return s.exitError()
}

func (s *Server) exitError() error {
	state := "exit status 0"
	if s.state != nil {
		state = s.state.Error()
	}
	return &ExitError{Image: s.opts.Image.Path, State: state, Stderr: s.stderr.String()}
}

// Stop ends the process: SIGTERM, and SIGKILL when StopTimeout has passed or ctx ends.
// It returns when the process is gone and the socket removed, with an *ExitError unless
// the end was orderly; ErrStuck if even SIGKILL does not end it, and then Stop may be
// tried again. Stopping is no flush: flush through a client first. Further calls return
// the same.
func (s *Server) Stop(ctx context.Context) error {
	s.stopMu.Lock()
	defer s.stopMu.Unlock()
	_ = s.proc.Signal(syscall.SIGTERM)
	timer := time.NewTimer(s.opts.StopTimeout)
	defer timer.Stop()
	select {
	case <-s.exited:
	case <-timer.C:
	case <-ctx.Done():
	}
	if err := s.kill(); err != nil {
		return err
	}
	return s.Err()
}

// kill makes sure that the process is gone, and then removes the socket.
func (s *Server) kill() error {
	_ = s.proc.Kill() // nothing if it was reaped
	select {
	case <-s.exited:
	case <-time.After(killWait):
		return fmt.Errorf("process %d for %s: %w", s.pid, s.opts.Image.Path, ErrStuck)
	}
	if err := os.Remove(s.opts.Socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("qemunbd: %w", err)
	}
	return nil
}

// tail keeps the last bytes written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p[max(0, len(p)-stderrTail):]...)
	if over := len(t.buf) - stderrTail; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.ToValidUTF8(bytes.TrimSpace(t.buf), []byte("?")))
}
