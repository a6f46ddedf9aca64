// Command bench is `make bench`: the figures of docs/PERFORMANCE.md, each measured beside its peer in the same run, because
// the machines are shared and only ratios mean something. It boots a lab of its own and writes build/bench.json.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"understudy/deploy/lab/labkit"
)

const (
	hostA = "host-a"
	hostB = "host-b"
)

func main() {
	rounds := flag.Int("rounds", 3, "rounds of the first full replication, each beside nbdcopy")
	cycles := flag.Int("cycles", 12, "cycles, and as many incremental backups of the peer")
	only := flag.Bool("full-only", false, "stop after the first full replication, and write no file")
	real := flag.Bool("cadence", false, "only the adaptive cadence beside fixed intervals on guests that write, with transfers that fail; writes no file")
	workloads := flag.String("workloads", "db,churn", "what the guests of -cadence do")
	name := flag.String("lab", "bench", "name of the lab")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, 40*time.Minute)
	b := &bench{rounds: *rounds, cycles: *cycles, workloads: strings.Split(*workloads, ",")}
	parts := []func(context.Context) error{b.full, b.scatter, b.cycle, b.stall, b.slowdown, b.memory}
	report := func() error { b.out.print(os.Stdout); return b.write() }
	switch {
	case *only:
		parts = []func(context.Context) error{b.full, b.memory}
		report = func() error { b.out.printFull(os.Stdout); return nil }
	case *real:
		parts = []func(context.Context) error{b.schedules}
		report = func() error { b.out.printSchedules(os.Stdout); return nil }
	}
	err := b.run(ctx, *name, parts, report)
	cancel()
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type bench struct {
	lab    *labkit.Lab
	root   string
	temp   string
	rounds int
	cycles int
	// workloads of the guests that show the cadence.
	workloads []string
	out       results
}

func (b *bench) run(ctx context.Context, name string, parts []func(context.Context) error, report func() error) (err error) {
	if os.Geteuid() != 0 {
		return fmt.Errorf("the lab makes network namespaces and starts libvirtd: run it as root")
	}
	if b.root, err = labkit.FindRoot(); err != nil {
		return err
	}
	if b.temp, err = os.MkdirTemp("", "understudy-bench"); err != nil {
		return err
	}
	defer os.RemoveAll(b.temp)
	b.lab = labkit.Open(b.root, name)
	defer func() {
		downCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		if _, derr := b.lab.Run(downCtx, "down"); derr != nil && err == nil {
			err = derr
		}
	}()
	if _, err := b.lab.Run(ctx, "up", "--fresh", "--hosts", "2", "--understudy", b.lab.Binary("understudy")); err != nil {
		return err
	}
	if err := b.lab.WaitHosts(ctx, 2); err != nil {
		return err
	}
	b.out.Machine = machine()
	for _, part := range parts {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return report()
}

func (b *bench) write() error {
	text, err := json.MarshalIndent(b.out, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.root, "build", "bench.json"), append(text, '\n'), 0o644)
}

func machine() string {
	out, err := exec.Command("sh", "-c", `echo "$(nproc) cores, $(awk -F': ' '/model name/ {print $2; exit}' /proc/cpuinfo), Linux $(uname -r), load $(cut -d' ' -f1 /proc/loadavg), guests under TCG"`).Output()
	if err != nil {
		return "unknown"
	}
	return string(out[:len(out)-1])
}

// guest boots a guest on host-a and waits until it works.
func (b *bench) guest(ctx context.Context, name string, flags ...string) (*labkit.Watcher, error) {
	w, err := b.lab.Watch(name, hostA)
	if err != nil {
		return nil, err
	}
	booted := time.Now()
	if _, err := b.lab.Run(ctx, append([]string{"guest", hostA, name, "--memory", "256"}, flags...)...); err != nil {
		return w, err
	}
	_, err = w.WaitLine(ctx, hostA, booted, ready)
	return w, err
}

func (b *bench) remove(ctx context.Context, name string) error {
	_, err := b.lab.Run(ctx, "guest", hostA, name, "--remove")
	return err
}

// protect starts a protection that makes points only when asked, and waits for the first.
func (b *bench) protect(ctx context.Context, name string) (labkit.Point, error) {
	if _, err := b.lab.CLI(ctx, "protect", "--standby", hostB, "--rpo", "1h", "--failover", "manual", "--wait", name); err != nil {
		return labkit.Point{}, err
	}
	return b.newest(ctx, name)
}

func (b *bench) newest(ctx context.Context, name string) (labkit.Point, error) {
	p, err := b.lab.Points(ctx, name)
	if err != nil {
		return labkit.Point{}, err
	}
	return p[len(p)-1], nil
}

func (b *bench) unprotect(ctx context.Context, name string) error {
	_, err := b.lab.CLI(ctx, "unprotect", "--yes", "--purge", name)
	return err
}

// timed runs a command in host-a and says how long it took.
func (b *bench) timed(ctx context.Context, script string) (time.Duration, error) {
	began := time.Now()
	_, err := b.lab.Exec(ctx, hostA, "bash", "-euc", script)
	return time.Since(began), err
}
