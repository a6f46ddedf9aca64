// Package labkit drives the lab (deploy/lab/lab) from Go and watches the consoles of its guests from outside. The demo,
// the end-to-end tests and the benchmarks use it, so that all three see what a person would see.
package labkit

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Lab is one lab by name.
type Lab struct {
	Name   string
	script string
	root   string // of the checkout
}

// Open names a lab of the checkout at root; nothing is started.
func Open(root, name string) *Lab {
	return &Lab{Name: name, script: filepath.Join(root, "deploy", "lab", "lab"), root: root}
}

// FindRoot walks up from the working folder to the checkout.
func FindRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "deploy", "lab", "lab")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("not inside a checkout of Understudy: deploy/lab/lab is not above the working folder")
		}
		dir = up
	}
}

// Binary is the path of a built binary.
func (l *Lab) Binary(name string) string { return filepath.Join(l.root, "build", name) }

// Dir is the lab's folder.
func (l *Lab) Dir() string {
	if d := os.Getenv("LAB_DIR"); d != "" {
		return d
	}
	tmp := os.Getenv("TMPDIR")
	if tmp == "" {
		tmp = "/tmp"
	}
	return filepath.Join(tmp, "understudy-lab", l.Name)
}

// Run calls a verb of the lab and returns what it printed on standard output.
func (l *Lab) Run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, l.script, args...)
	cmd.Env = append(os.Environ(), "LAB_NAME="+l.Name)
	return run(cmd, "lab "+strings.Join(args, " "))
}

// Exec runs a command inside a lab host (or "control").
func (l *Lab) Exec(ctx context.Context, host string, argv ...string) (string, error) {
	return l.Run(ctx, append([]string{"exec", host}, argv...)...)
}

// CLI runs `understudy ARGS…` inside the control host and returns its standard output.
func (l *Lab) CLI(ctx context.Context, args ...string) (string, error) {
	return l.Exec(ctx, "control", append([]string{l.Binary("understudy")}, args...)...)
}

// ExitError tells the exit code of a failed command, with what it printed.
type ExitError struct {
	What   string
	Code   int
	Stdout string
	Stderr string
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("%s: exit %d: %s", e.What, e.Code, strings.TrimSpace(e.Stderr+e.Stdout))
}

func run(cmd *exec.Cmd, what string) (string, error) {
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	// Services started by the lab inherit nothing of ours, but a stray child must not hold the pipe for ever.
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	if err == nil {
		return out.String(), nil
	}
	code := -1
	if cmd.ProcessState != nil {
		code = cmd.ProcessState.ExitCode()
	}
	return out.String(), &ExitError{What: what, Code: code, Stdout: out.String(), Stderr: errOut.String()}
}
