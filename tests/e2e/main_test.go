package e2e

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"understudy/deploy/lab/labkit"
)

// One lab serves all stories: bringing it up is cheap, booting guests is not. Stories run one after the other because
// two cores under software emulation would only slow each other down.
func TestMain(m *testing.M) { os.Exit(mainExit(m)) }

// labName may be another one, so that two people can run stories beside each other on one machine.
var labName = cmp.Or(os.Getenv("E2E_LAB"), "e2e")

func mainExit(m *testing.M) int {
	if why := cannotRun(); why != "" {
		return m.Run() // each test skips itself with the reason
	}
	root, err := labkit.FindRoot()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	lab := labkit.Open(root, labName)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	defer func() {
		downCtx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if os.Getenv("KEEP") == "" {
			_, _ = lab.Run(downCtx, "down")
		}
	}()
	if _, err := lab.Run(ctx, "up", "--fresh", "--hosts", "2", "--understudy", lab.Binary("understudy")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := lab.WaitHosts(ctx, 2); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// cannotRun says why there is no lab here; empty when there is.
func cannotRun() string {
	if os.Geteuid() != 0 {
		return "needs root: the lab makes network namespaces and starts libvirtd"
	}
	for _, tool := range []string{"libvirtd", "qemu-system-x86_64", "ip", "socat"} {
		if _, err := exec.LookPath(tool); err != nil {
			return "needs " + tool + ": run make deps"
		}
	}
	return ""
}
