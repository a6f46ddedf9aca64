package restore

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

const (
	dialLimit  = 3 * time.Second
	maxAnswer  = 200 // bytes of what a probe said
	probeGrace = time.Second
)

// Probe asks the guest of a VM that was started here, one probe after the other, each until it passes or its time is over. It
// says what answered.
func (r *Restorer) Probe(ctx context.Context, vm model.VMRef, probes []model.Probe) (string, error) {
	var by []string
	for _, p := range probes {
		if err := r.ask(ctx, vm, p); err != nil {
			return "", err
		}
		by = append(by, p.Kind)
	}
	return strings.Join(by, ", "), nil
}

func (r *Restorer) ask(ctx context.Context, vm model.VMRef, p model.Probe) error {
	end := time.Now().Add(p.Limit()) // a duration of this process
	for {
		dom, found, err := r.lookup(ctx, vm.UUID)
		switch {
		case err != nil:
		case !found || dom.State != hypervisor.Running:
			return r.fail(model.NotRunning, vm, nil, "the VM did not stay up: it is %s", state(dom, found))
		default:
			err = r.once(ctx, vm, p)
		}
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Now().After(end):
			return r.fail(model.NotRunning, vm, err, "the %s probe did not pass within %s", p.Kind, p.Limit())
		}
		if err := r.wait(ctx); err != nil {
			return err
		}
	}
}

func (r *Restorer) once(ctx context.Context, vm model.VMRef, p model.Probe) error {
	switch p.Kind {
	case "agent":
		return r.hv.PingGuest(ctx, vm.UUID, pingTimeout)
	case "tcp":
		d := net.Dialer{Timeout: dialLimit}
		conn, err := d.DialContext(ctx, "tcp", p.Address)
		if err != nil {
			return err
		}
		return conn.Close()
	case "command":
		return runProbe(ctx, p.Command, "UNDERSTUDY_VM="+vm.Name, "UNDERSTUDY_UUID="+vm.UUID)
	}
	return r.fail(model.InvalidArgument, vm, nil, "a probe of the unknown kind %q", p.Kind)
}

// runProbe runs a program once, without a shell. It runs as the agent does, as root: only a program that nobody but root can
// change is run.
func runProbe(ctx context.Context, argv []string, environment ...string) error {
	if len(argv) == 0 {
		return model.Fail(model.InvalidArgument, nil, "a command probe without a command")
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	if err := trusted(path); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, argv[1:]...)
	cmd.Env = append(os.Environ(), environment...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // with what it started
	cmd.WaitDelay = probeGrace
	var said tail
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", argv[0], err, strings.ToValidUTF8(strings.TrimSpace(said.String()), "?"))
	}
	return nil
}

// trusted says that only root, or whoever the agent runs as, can change the program.
func trusted(path string) error {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	for p := real; ; p = filepath.Dir(p) {
		info, err := os.Stat(p)
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		open := info.Mode().Perm()&0o022 != 0 && info.Mode()&os.ModeSticky == 0
		if !ok || open || st.Uid != 0 && int64(st.Uid) != int64(os.Geteuid()) {
			return model.Fail(model.Refused, nil, "the probe %s is not run: %s can be changed by others than root", path, p).
				WithTry("chown root and chmod go-w " + p)
		}
		if p == "/" {
			return nil
		}
	}
}

// tail keeps the end of what is written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if n := len(t.b) - maxAnswer; n > 0 {
		t.b = bytes.Clone(t.b[n:])
	}
	return len(p), nil
}

func (t *tail) String() string { return string(t.b) }
