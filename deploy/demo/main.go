// Command demo is `make demo`: two libvirt hosts on this machine, a VM with a database on the first, protected to the
// second; then the first loses power and the system does the rest by itself. Loss and downtime are measured from the
// acknowledgements that the database printed on its console, by a watcher outside of everything.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"understudy/deploy/lab/labkit"
)

func main() {
	keep := flag.Bool("keep", false, "leave everything running at the end")
	rpo := flag.Duration("rpo", 10*time.Second, "RPO of the protection")
	points := flag.Int("points", 4, "verified points to wait for before the crash")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	err := run(ctx, *keep, *rpo, *points)
	cancel()
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo failed:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, keep bool, rpo time.Duration, points int) (err error) {
	if os.Geteuid() != 0 {
		return fmt.Errorf("the demo makes network namespaces and starts libvirtd: run it as root")
	}
	root, err := labkit.FindRoot()
	if err != nil {
		return err
	}
	d := &demo{lab: labkit.Open(root, "demo"), start: time.Now(), rpo: rpo, points: points, report: filepath.Join(root, "build", "demo-report.json")}
	defer func() {
		if keep && err == nil {
			d.say("left running: understudy through %s/deploy/lab/lab (LAB_NAME=demo), Web UI http://127.0.0.1:8233; end it with make demo-down", root)
			return
		}
		// A cancelled context must not stop the clean-up.
		downCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		if _, derr := d.lab.Run(downCtx, "down"); derr != nil && err == nil {
			err = derr
		}
	}()
	return d.play(ctx)
}
