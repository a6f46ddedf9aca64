package fence

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"understudy/internal/model"
)

// Device is one fence agent of ClusterLabs with the options that lead it to one host. The agent is spoken to by the standard
// protocol: `name=value` lines on standard input, the verdict in the exit code.
type Device struct {
	Agent   string
	Options map[string]string
	Secrets map[string]string // option: the file that holds its value; read at each use
	Timeout time.Duration     // of one try: the order and the status after it
	Retries int
}

// Exit codes of `status` and `monitor`; every other one is a failure.
const (
	exitOn  = 0
	exitOff = 2
)

const (
	outputLimit = 64 << 10
	secretLimit = 4 << 10
	statusPause = 500 * time.Millisecond
)

// String names agent and device without anything secret.
func (d Device) String() string {
	name := filepath.Base(d.Agent)
	for _, o := range []string{"plug", "port", "ip", "ipaddr"} {
		if v := d.Options[o]; v != "" {
			return name + " " + o + "=" + v
		}
	}
	return name
}

// off gives the order and waits until the device itself says that the power is off.
func (d Device) off(ctx context.Context) error {
	var err error
	for try := 0; try <= d.Retries && ctx.Err() == nil; try++ {
		if err = d.tryOff(ctx); err == nil {
			return nil
		}
	}
	return errors.Join(err, ctx.Err())
}

func (d Device) tryOff(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, d.Timeout)
	defer cancel()
	code, said, err := d.run(ctx, "off")
	if err != nil {
		return err
	}
	if code != 0 {
		return fmt.Errorf("off ended with exit code %d: %s", code, said)
	}
	for {
		code, said, err = d.run(ctx, "status")
		switch {
		case err != nil:
			return err
		case code == exitOff:
			return nil
		case code == exitOn:
			said = "status still says on"
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no status off within %s after the order: %s", d.Timeout, said)
		case <-time.After(statusPause):
		}
	}
}

// monitor asks whether the device can be used, and changes nothing.
func (d Device) monitor(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, d.Timeout)
	defer cancel()
	code, said, err := d.run(ctx, "monitor")
	if err == nil && code != 0 {
		err = fmt.Errorf("monitor ended with exit code %d: %s", code, said)
	}
	return err
}

// run carries one action out. said is the end of what the agent complained of, without the secrets.
func (d Device) run(ctx context.Context, action string) (code int, said string, err error) {
	input, secrets, err := d.input(action)
	if err != nil {
		return 0, "", err
	}
	cmd := exec.CommandContext(ctx, d.Agent)
	cmd.Stdin = strings.NewReader(input)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/", "TMPDIR=" + os.TempDir()}
	// The agent's own children (ipmitool, ssh) end with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = time.Second
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &limited{&out, outputLimit}, &limited{&complaint, outputLimit}
	err = cmd.Run()
	said = tail(complaint.String(), secrets)
	if said == "" {
		said = tail(out.String(), secrets)
	}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return 0, said, fmt.Errorf("%s was given up: %w", action, ctx.Err())
	case errors.As(err, &exit) && exit.Exited():
		return exit.ExitCode(), said, nil
	case err != nil:
		return 0, said, fmt.Errorf("%s: %w", action, err)
	}
	return 0, said, nil
}

// input is what the agent reads. An option cannot smuggle in another line: values were checked when the file was read,
// and secrets are here.
func (d Device) input(action string) (text string, secrets []string, err error) {
	var b strings.Builder
	fmt.Fprintf(&b, "action=%s\n", action)
	names := make([]string, 0, len(d.Options))
	for name := range d.Options {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(&b, "%s=%s\n", name, d.Options[name])
	}
	for name, file := range d.Secrets {
		value, err := readSecret(file)
		if err != nil {
			return "", nil, fmt.Errorf("option %s: %w", name, err)
		}
		fmt.Fprintf(&b, "%s=%s\n", name, value)
		secrets = append(secrets, value)
	}
	return b.String(), secrets, nil
}

// readSecret refuses a file that everybody can read.
func readSecret(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	switch {
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("%s is not a file", path)
	case info.Mode().Perm()&0o007 != 0:
		return "", fmt.Errorf("%s is open to everybody (mode %04o): chmod 0600", path, info.Mode().Perm())
	case info.Size() > secretLimit:
		return "", fmt.Errorf("%s is longer than %d bytes", path, secretLimit)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	value := strings.TrimRight(string(b), "\r\n")
	if value == "" || strings.ContainsAny(value, "\r\n\x00") {
		return "", fmt.Errorf("%s must hold one line", path)
	}
	return value, nil
}

// tail is the last line, which is where agents say what is wrong.
func tail(text string, secrets []string) string {
	text = strings.TrimSpace(text)
	if i := strings.LastIndexByte(text, '\n'); i >= 0 {
		text = text[i+1:]
	}
	for _, s := range secrets {
		text = strings.ReplaceAll(text, s, "***")
	}
	if len(text) > 300 {
		text = text[:300] + "…"
	}
	return strings.ToValidUTF8(text, "?")
}

// unconfirmed is a failure of all that was tried for a host.
func unconfirmed(host model.HostID, err error) error {
	return model.Fail(model.FenceUnconfirmed, err, "no fence device confirms that the power is off").WithHost(host).
		WithTry("understudy doctor, or power it off by hand and then: understudy failover VM --confirm-primary-down")
}
