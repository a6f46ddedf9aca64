package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"understudy/internal/decide/mode"
	"understudy/internal/lease"
	"understudy/internal/model"
	"understudy/internal/notify"
	"understudy/internal/obs"
	"understudy/starter"
)

const (
	alarmsEvery  = 2 * time.Second
	controlEvery = 10 * time.Second
	controlAfter = time.Minute // a server that restarts is no matter
	untoldAfter  = 20 * time.Second
	frozenAfter  = 3 * time.Second
	lowLease     = 3 // a lease is in trouble with less than a third of its time left
)

// alarms tells people what this agent sees by itself: it needs no control plane, and libvirt may hang.
type alarms struct {
	desk    *notify.Desk
	host    model.HostID
	watch   *watcher
	guard   *guarded
	held    func() ([]lease.Held, error)
	usage   func() (free, total int64, err error)
	expires func() time.Time // of the certificate; nil without TLS
	control *controlled
	now     func() time.Time
}

func (a *agent) alarms() alarms {
	x := alarms{desk: a.desk, host: a.opts.Host, watch: a.watch, guard: a.guard, held: a.holder.View, usage: a.store.Usage, control: &a.heard, now: time.Now}
	if a.tls != nil {
		x.expires = a.tls.NotAfter
	}
	return x
}

// run looks until ctx ends.
func (a alarms) run(ctx context.Context) {
	for ctx.Err() == nil {
		pause(ctx, alarmsEvery)
		a.desk.Observe(obs.ScopeAgent, a.all())
	}
}

func (a alarms) all() []model.Alarm {
	out := slices.Concat(a.watch.alarms(), a.leases(), a.control.alarms(a.host, a.watch.served(), a.now()))
	if free, total, err := a.usage(); err == nil {
		if x, low := obs.DiskAlarm(obs.ScopeAgent, a.host, "the replicas of host "+string(a.host), free, total); low {
			out = append(out, x)
		}
	}
	if a.expires != nil {
		if x, soon := obs.CertificateAlarm(obs.ScopeAgent, a.host, "host "+string(a.host), a.expires(), a.now()); soon {
			out = append(out, x)
		}
	}
	return out
}

// alarms of the VMs served here: writes that are in no verified point for too long, and a VM that is down without anybody
// who could be told.
func (w *watcher) alarms() []model.Alarm {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	var out []model.Alarm
	for uuid, e := range w.vms {
		if e.Muted {
			continue
		}
		if e.level(now) >= mode.Violated {
			a := obs.ExposureAlarm(e.VM.Name, w.host, now.Sub(*e.Meter.exposure()), e.RPO)
			a.Key = obs.ScopeAgent + a.Key + "/" + uuid
			out = append(out, a)
		}
		if e.down && e.Runs { // Runs follows when that was delivered
			out = append(out, model.Alarm{
				Key: obs.ScopeAgent + "untold/" + uuid, Name: "VMDownUntold", VM: e.VM.Name, Host: w.host, After: untoldAfter,
				What: e.VM.Name + " is down, and the control plane could not be told", Why: "libvirt says that it is off (" + e.why + "); nothing fails over before the control plane hears of it",
				Try: "understudy doctor; virsh domstate --reason " + e.VM.Name,
			})
		}
	}
	return out
}

// leases that run out, and VMs that the guard holds.
func (a alarms) leases() []model.Alarm {
	held, err := a.held()
	if err != nil {
		return nil // doctor says so
	}
	var out []model.Alarm
	for _, h := range held {
		x := model.Alarm{Key: obs.ScopeAgent + "lease/" + h.VM.UUID, Name: "LeaseTrouble", VM: h.VM.Name, Host: a.host, Try: "understudy doctor --host " + string(a.host)}
		left := time.Duration(h.Left)
		switch {
		case a.guard.standsStill(h.VM.UUID) && !a.guard.moving(h.VM.UUID):
			x.Level, x.After = 2, frozenAfter
			x.What = h.VM.Name + " is frozen by its guard"
			x.Why = "its lease was not renewed in time; it goes on when a grantor answers, unless it was started elsewhere"
		case left != 0 && left < a.guard.base.TTL/lowLease:
			x.Level = 1
			x.What = "the lease of " + h.VM.Name + " is not renewed"
			x.Why = fmt.Sprintf("%s are left of it, then its guard freezes the VM: neither the control plane nor the standby answers", max(left, 0).Round(100*time.Millisecond))
		default:
			continue
		}
		out = append(out, x)
	}
	return out
}

// controlled knows whether a control plane works: Temporal answers and a server works on it.
type controlled struct {
	lost atomic.Pointer[lostControl] // nil: it works, or was not asked yet
}

type lostControl struct {
	since time.Time
	why   string
}

// run asks until ctx ends. Before the first connection nobody was heard either.
func (c *controlled) run(ctx context.Context, client func() *starter.Client, now func() time.Time) {
	for ctx.Err() == nil {
		c.judge(ctx, client(), now())
		pause(ctx, controlEvery)
	}
}

func (c *controlled) judge(ctx context.Context, to *starter.Client, now time.Time) {
	why := "Temporal was not reached yet"
	if to != nil {
		n, err := to.Servers(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case model.KindOf(err) == model.Refused: // a Temporal that does not tell hosts; that it answers is enough
			c.lost.Store(nil)
			return
		case err != nil:
			why = reason(err)
		case n == 0:
			why = "Temporal answers, and no understudy server works on it"
		default:
			c.lost.Store(nil)
			return
		}
	}
	since := now
	if before := c.lost.Load(); before != nil {
		since = before.since
	}
	c.lost.Store(&lostControl{since, why})
}

// reason is an error without its VM, host and advice, which the message has by itself.
func reason(err error) string {
	var f *model.Failure
	switch {
	case !errors.As(err, &f):
		return err.Error()
	case f.Err != nil:
		return f.What + ": " + f.Err.Error()
	}
	return f.What
}

// alarms is one when this host serves VMs and nobody would move them.
func (c *controlled) alarms(host model.HostID, served int, now time.Time) []model.Alarm {
	lost := c.lost.Load()
	if lost == nil || served == 0 {
		return nil
	}
	return []model.Alarm{{
		Key: obs.ScopeAgent + "control", Name: "ControlPlaneLost", Host: host, Since: lost.since, After: controlAfter,
		What: "host " + string(host) + " does not hear the control plane",
		Why:  fmt.Sprintf("%s; no points are made of what this host serves (%d protected), and nothing fails over", lost.why, served),
		Try:  "understudy doctor; on the control host: systemctl status understudy-server",
	}}
}
