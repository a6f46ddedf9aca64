package guard

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"understudy/internal/model"
)

// The test's binary plays QEMU when it is called with this in its environment: a process of several threads that was started
// with -uuid.
const playQEMU = "GUARD_TEST_PLAYS_QEMU"

func TestMain(m *testing.M) {
	if os.Getenv(playQEMU) != "" {
		_, _ = io.Copy(io.Discard, os.Stdin) // ends with the test
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// qemu is a copy of a VM.
type qemu struct {
	t   *testing.T
	cmd *exec.Cmd
	end chan struct{} // closed when it is gone
}

// start lets the clock of start times go on first: /proc tells them in hundredths of a second, rounded down, so what starts
// right after an order looks as if it had started before it. A real QEMU is slower than that.
func start(t *testing.T, vm string) *qemu {
	t.Helper()
	time.Sleep(30 * time.Millisecond)
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self, "-name", "guest=x", "-uuid", vm)
	cmd.Env = append(os.Environ(), playQEMU+"=1")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	q := &qemu{t, cmd, make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		close(q.end)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-q.end
		_ = in.Close()
	})
	// Not until it says something: where it may not run, it is frozen before.
	q.soon("started", func() bool { _, up := procfs{"/proc"}.identify(q.pid()); return up })
	return q
}

func (q *qemu) pid() int { return q.cmd.Process.Pid }

func (q *qemu) frozen() bool {
	threads, err := procfs{"/proc"}.threads(q.pid())
	return err == nil && len(threads) > 0 && stopped(threads)
}

func (q *qemu) runs() bool {
	threads, err := procfs{"/proc"}.threads(q.pid())
	if err != nil || len(threads) == 0 {
		return false
	}
	for _, th := range threads {
		if th.stopped() {
			return false
		}
	}
	return true
}

func (q *qemu) dead() bool {
	select {
	case <-q.end:
		return true
	default:
		return false
	}
}

func (q *qemu) soon(what string, is func() bool) {
	q.t.Helper()
	require.Eventually(q.t, is, 10*time.Second, 2*time.Millisecond, what)
}

func (q *qemu) stays(what string, is func() bool) {
	q.t.Helper()
	require.Never(q.t, func() bool { return !is() }, 300*time.Millisecond, 5*time.Millisecond, what)
}

// post is a guard at work with the folders of one host.
type post struct {
	t        *testing.T
	run, dir string
	c        *Client
	stop     func()
	o        func(*Options)
}

func stand(t *testing.T, o ...func(*Options)) *post {
	t.Helper()
	base, err := os.MkdirTemp("", "g") // short: a socket's path has at most 107 bytes
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	p := &post{t: t, run: filepath.Join(base, "run"), dir: filepath.Join(base, "state"), o: func(*Options) {}}
	if len(o) > 0 {
		p.o = o[0]
	}
	require.NoError(t, os.MkdirAll(p.run, 0o755))
	require.NoError(t, os.MkdirAll(p.dir, 0o755))
	p.c = Dial(Socket(p.run))
	p.begin()
	t.Cleanup(func() {
		p.stop()
		if b, _ := os.ReadFile(filepath.Join(p.dir, "guard.log")); t.Failed() {
			t.Logf("journal:\n%s", b)
		}
	})
	return p
}

// begin starts a guard, as its supervisor does.
func (p *post) begin() {
	p.t.Helper()
	o := Options{RunDir: p.run, StateDir: p.dir, Every: 50 * time.Millisecond, Early: 100 * time.Millisecond}
	p.o(&o)
	g, err := New(o)
	require.NoError(p.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	ended := false
	p.stop = func() {
		if !ended {
			ended = true
			cancel()
			require.NoError(p.t, <-done)
		}
	}
	require.Eventually(p.t, func() bool { _, err := p.c.State(context.Background()); return err == nil }, 5*time.Second, 2*time.Millisecond)
}

// boot is a power loss: the tmpfs is empty, the disk is not.
func (p *post) boot() {
	p.t.Helper()
	p.stop()
	require.NoError(p.t, os.RemoveAll(filepath.Join(p.run, "guard")))
	p.begin()
}

func (p *post) arm(vm string, g model.Generation, mode model.LeaseMode, left time.Duration) error {
	return p.armAs(vm, g, mode, left, model.IsolationFreeze)
}

func (p *post) armAs(vm string, g model.Generation, mode model.LeaseMode, left time.Duration, action model.Isolation) error {
	boot, err := bootID()
	require.NoError(p.t, err)
	return p.c.Arm(context.Background(), model.GuardArm{UUID: vm, Generation: g, BootID: boot, Deadline: now().Add(left), Mode: mode, Action: action})
}

func (p *post) mayStart(vm string) error { return p.c.MayStart(context.Background(), vm) }

// journal of all guards that stood here; they must have ended.
func (p *post) journal() []Event {
	p.t.Helper()
	b, err := os.ReadFile(filepath.Join(p.dir, "guard.log"))
	require.NoError(p.t, err)
	var out []Event
	for line := range strings.Lines(string(b)) {
		var e Event
		require.NoError(p.t, json.Unmarshal([]byte(line), &e))
		out = append(out, e)
	}
	return out
}

func (p *post) noted(event string, pid int) *Event {
	p.t.Helper()
	for _, e := range p.journal() {
		if e.Event == event && e.PID == pid {
			return &e
		}
	}
	return nil
}

func aVM() string { return uuid.NewString() }

func kindOf(t *testing.T, want model.Kind, err error) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, want, model.KindOf(err), err)
}
