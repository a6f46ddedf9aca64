package main

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"time"

	"understudy/deploy/lab/labkit"
)

const (
	primary = "host-a"
	standby = "host-b"
	guest   = "db1"
	webUI   = "http://127.0.0.1:8233/namespaces/understudy/workflows"
)

type moment struct {
	At   time.Time `json:"at"`
	What string    `json:"what"`
}

type demo struct {
	lab      *labkit.Lab
	start    time.Time
	rpo      time.Duration
	points   int
	report   string
	timeline []moment
}

func (d *demo) say(format string, args ...any) {
	m := moment{At: time.Now(), What: fmt.Sprintf(format, args...)}
	d.timeline = append(d.timeline, m)
	fmt.Printf("%7.1f s  %s\n", m.At.Sub(d.start).Seconds(), m.What)
}

func (d *demo) play(ctx context.Context) error {
	w, err := d.raise(ctx)
	if err != nil {
		return err
	}
	defer w.Close()
	before, err := d.protect(ctx)
	if err != nil {
		return err
	}
	return d.crash(ctx, w, before)
}

// raise starts the lab and the guest.
func (d *demo) raise(ctx context.Context) (*labkit.Watcher, error) {
	d.say("starting the lab: %s, %s and a control host, each with namespaces of its own", primary, standby)
	if _, err := d.lab.Run(ctx, "up", "--fresh", "--hosts", "2", "--understudy", d.lab.Binary("understudy")); err != nil {
		return nil, err
	}
	for _, port := range []string{"7233", "8233"} {
		if _, err := d.lab.Run(ctx, "forward", port, "control:"+port); err != nil {
			return nil, err
		}
	}
	if err := d.lab.WaitHosts(ctx, 2); err != nil {
		return nil, err
	}
	d.say("control plane and two agents are up; Web UI %s", webUI)
	w, err := d.lab.Watch(guest, primary, standby)
	if err != nil {
		return nil, err
	}
	booted := time.Now()
	if _, err := d.lab.Run(ctx, "guest", primary, guest, "--workload", "db", "--memory", "256", "--disk", "1G"); err != nil {
		return w, err
	}
	bootCtx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if _, err := w.WaitLine(bootCtx, primary, booted, regexp.MustCompile(`READY`)); err != nil {
		return w, err
	}
	if _, err := w.WaitAcks(bootCtx, primary, 20); err != nil {
		return w, err
	}
	d.say("%s runs on %s: a SQLite database that acknowledges each row once it is durable", guest, primary)
	return w, nil
}

// protect turns protection on and waits for some verified points.
func (d *demo) protect(ctx context.Context) ([]labkit.Point, error) {
	d.say("understudy protect --standby %s --rpo %s --wait %s", standby, d.rpo, guest)
	if _, err := d.lab.CLI(ctx, "protect", "--standby", standby, "--rpo", d.rpo.String(), "--wait", guest); err != nil {
		return nil, err
	}
	d.say("the first full copy is on %s and verified", standby)
	waitCtx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	seen := 0
	_, err := d.lab.WaitStatus(waitCtx, guest, fmt.Sprintf("%d verified points", d.points), func(p labkit.Protection) bool {
		if p.Points > seen && p.LastPoint != nil {
			seen = p.Points
			if p.LastPoint.Mode != "delta" {
				d.say("point %d verified: %s copy, %s sent", p.LastPoint.Seq, p.LastPoint.Mode, size(p.LastPoint.SentBytes))
				return p.Points >= d.points
			}
			d.say("point %d verified: %s dirty by bitmap, %s sent, exposure %.1f s of %.0f s (%s)", p.LastPoint.Seq,
				size(p.LastPoint.DirtyBytes), size(p.LastPoint.SentBytes), p.RPO.Exposure, p.RPO.Target, p.RPO.State)
		}
		return p.Points >= d.points
	})
	if err != nil {
		return nil, err
	}
	return d.lab.Points(ctx, guest)
}

// crash takes the power of the primary and watches what happens.
func (d *demo) crash(ctx context.Context, w *labkit.Watcher, points []labkit.Point) error {
	crashed := time.Now()
	d.say("lab crash %s: power loss, libvirtd, QEMU and the agent die at once", primary)
	if _, err := d.lab.Run(ctx, "crash", primary); err != nil {
		return err
	}
	waitCtx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()
	phase := ""
	after, err := d.lab.WaitStatus(waitCtx, guest, "failover to "+standby, func(p labkit.Protection) bool {
		if p.Phase != phase {
			phase = p.Phase
			d.say("status: %s (primary %s, generation %d)", p.Phase, p.Primary, p.Generation)
		}
		return p.Primary == standby
	})
	if err != nil {
		return err
	}
	check, err := w.WaitCheck(waitCtx, standby, crashed)
	if err != nil {
		return err
	}
	d.say("the guest on %s says: %s", standby, check.Text)
	first, err := w.WaitAcks(waitCtx, standby, 1)
	if err != nil {
		return err
	}
	d.say("%s acknowledges again: row %d", guest, first.Row)
	if !check.OK {
		return fmt.Errorf("the database did not survive: %s", check.Text)
	}
	r := newReport(d, w, points, after, labkit.Measure(w, primary, standby, check, first))
	if err := r.write(d.report); err != nil {
		return err
	}
	r.print(os.Stdout)
	if r.RPO > d.rpo.Seconds() {
		return fmt.Errorf("the measured loss of %.1f s is more than the promised %s", r.RPO, d.rpo)
	}
	return nil
}
