package guard

import (
	"context"
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"understudy/internal/model"
)

// Arm binds a VM from now on. When it returned, the guard acts on it by itself.
func (g *Guard) Arm(a model.GuardArm) error {
	v, err := g.enlist(a.UUID, func(r record) error {
		_, err := r.arm(a, now())
		return err
	})
	if err != nil {
		g.refused(a.UUID, a.Generation, err)
		return err
	}
	g.mu.Lock()
	before := v.rec
	rec, err := before.arm(a, now())
	if err == nil {
		if err = g.store.write(rec); err == nil {
			v.rec = rec
		}
	}
	g.mu.Unlock()
	if err != nil {
		g.refused(a.UUID, a.Generation, err)
		return err
	}
	if before.Generation != rec.Generation || before.Mode != rec.Mode || before.Cut != rec.Cut {
		g.journal.note(Event{Event: "arm", UUID: rec.UUID, Generation: rec.Generation, Mode: rec.Mode, Deadline: rec.Deadline})
	}
	g.alarm.ring()
	return nil
}

// enlist returns a VM, and puts it on the durable list first when it is new and check agrees.
func (g *Guard) enlist(uuid string, check func(record) error) (*vm, error) {
	g.mu.Lock()
	v := g.vms[uuid]
	g.mu.Unlock()
	if v != nil {
		return v, nil
	}
	g.listing.Lock()
	defer g.listing.Unlock()
	g.mu.Lock()
	v = g.vms[uuid]
	list := slices.Collect(maps.Keys(g.vms))
	g.mu.Unlock()
	if v != nil {
		return v, nil
	}
	rec := record{UUID: uuid, BootID: g.boot}
	if err := check(rec); err != nil {
		return nil, err
	}
	if err := g.store.writeList(append(list, uuid)); err != nil {
		return nil, model.Fail(model.Internal, err, "the list of protected VMs cannot be written").WithVM(uuid)
	}
	v = &vm{rec: rec, copies: map[int]*copyOf{}}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.vms[uuid] = v
	return v, nil
}

// Forget ends the protection on this host.
func (g *Guard) Forget(uuid string) error {
	g.listing.Lock()
	defer g.listing.Unlock()
	g.mu.Lock()
	v := g.vms[uuid]
	var left []string
	for u := range g.vms {
		if u != uuid {
			left = append(left, u)
		}
	}
	held := v != nil && len(v.rec.Frozen) > 0
	g.mu.Unlock()
	if v == nil {
		return nil
	}
	if held {
		err := model.Fail(model.Refused, nil, "a frozen copy of it is here, which nobody would thaw").WithVM(uuid).
			WithTry("understudy guard stop " + uuid)
		g.refused(uuid, 0, err)
		return err
	}
	// The list first: a record that is left over means nothing, a listed VM without a record stands.
	if err := g.store.writeList(left); err != nil {
		return model.Fail(model.Internal, err, "the list of protected VMs cannot be written").WithVM(uuid)
	}
	g.mu.Lock()
	delete(g.vms, uuid)
	g.mu.Unlock()
	g.journal.note(Event{Event: "forget", UUID: uuid})
	return g.store.remove(uuid)
}

// Stop kills every copy of a generation below and returns when that is proved.
func (g *Guard) Stop(ctx context.Context, uuid string, below model.Generation) error {
	if below == 0 {
		return model.Fail(model.InvalidArgument, nil, "stop needs the generation that follows").WithVM(uuid)
	}
	v, err := g.enlist(uuid, func(record) error { return nil })
	if err != nil {
		return err
	}
	g.mu.Lock()
	if v.rec.Generation >= below {
		g.mu.Unlock()
		return nil // it is the newer one that is here
	}
	rec := v.rec
	rec.Floor, rec.Stopped = max(rec.Floor, below), now()
	if err := g.store.write(rec); err != nil {
		g.mu.Unlock()
		return model.Fail(model.Internal, err, "the floor cannot be kept").WithVM(uuid)
	}
	v.rec = rec
	g.mu.Unlock()
	return g.settle(ctx, v, uuid, func(p process) bool { return p.Started <= rec.Stopped })
}

// Freeze ends the lease of a generation now and returns when every copy is proved to stand.
func (g *Guard) Freeze(ctx context.Context, uuid string, gen model.Generation) error {
	g.mu.Lock()
	v := g.vms[uuid]
	if v == nil || v.rec.Generation != gen {
		g.mu.Unlock()
		return model.Fail(model.StaleGeneration, nil, "generation %d is not armed here", gen).WithVM(uuid)
	}
	rec := v.rec
	rec.Cut = true
	if err := g.store.write(rec); err != nil {
		g.mu.Unlock()
		return model.Fail(model.Internal, err, "the end of the lease cannot be kept").WithVM(uuid)
	}
	v.rec = rec
	g.mu.Unlock()
	return g.settle(ctx, v, uuid, func(process) bool { return true })
}

// patience of a call that waits for a proof: both lines, and once more.
const patience = 5 * time.Second

// settle looks for copies itself, carries out what is wanted of each, and returns when all of those that concern the caller
// are proved to stand or to be gone.
func (g *Guard) settle(ctx context.Context, v *vm, uuid string, concerns func(process) bool) error {
	defer g.alarm.ring()
	for end := now().Add(patience); ; nap() {
		found, err := g.hand.proc.scan(func(u string) bool { return u == uuid })
		if err != nil {
			return model.Fail(model.Internal, err, "cannot look for copies").WithVM(uuid)
		}
		open := 0
		for _, p := range found {
			if !concerns(p) {
				continue
			}
			if c := g.adopt(v, p); !g.sure(v, c) {
				open++
			}
		}
		if open == 0 {
			return nil
		}
		if ctx.Err() != nil || now() > end {
			return model.Fail(model.FenceUnconfirmed, ctx.Err(), "%d copies of it are not proved to stand", open).WithVM(uuid)
		}
	}
}

// adopt is the copy of a process, known or new.
func (g *Guard) adopt(v *vm, p process) *copyOf {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c := v.copies[p.PID]; c != nil && c.process == p {
		return c
	}
	c := &copyOf{process: p, since: now(), seen: now()}
	v.copies[p.PID] = c
	g.journal.note(Event{Event: "found", UUID: p.UUID, PID: p.PID, Started: p.Started, Generation: v.rec.Generation, Mode: v.rec.Mode})
	return c
}

// sure carries the order of a copy out and says whether it is proved not to run.
func (g *Guard) sure(v *vm, c *copyOf) bool {
	g.carryOut(v, c)
	g.mu.Lock()
	defer g.mu.Unlock()
	return c.proved && c.want != mayRun
}

// MayStart is the start gate: nil when the VM may be started on this host now.
func (g *Guard) MayStart(uuid string) error {
	g.mu.Lock()
	v := g.vms[uuid]
	why := ""
	if v != nil {
		why = v.rec.closed(now(), g.o.Early)
	}
	var copies []process
	if v != nil {
		for _, c := range v.copies {
			copies = append(copies, c.process)
		}
	}
	g.mu.Unlock()
	if uuid == ProbeUUID {
		why = "it is the probe of this gate"
	}
	for _, p := range copies {
		if fd, err := g.hand.proc.pidfd(p); err == nil {
			_ = unix.Close(fd)
			why = "a copy of it is here, process " + pidText(p.PID)
		}
	}
	if why == "" {
		return nil
	}
	err := model.Fail(model.Refused, nil, "it is protected by understudy and may not start on this host: %s", why).WithVM(uuid).
		WithTry("understudy status, to see where it runs")
	if uuid != ProbeUUID {
		g.refused(uuid, 0, err)
	}
	return err
}

func (g *Guard) refused(uuid string, gen model.Generation, err error) {
	g.o.Log.Warn("refuse", "uuid", uuid, "generation", uint64(gen), "error", err)
	g.journal.note(Event{Event: "refuse", UUID: uuid, Generation: gen, Why: err.Error()})
}

// State is what the guard says of itself.
func (g *Guard) State() model.GuardState {
	level, why := g.dog.level()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.hungry != "" {
		why = "the watchdog is not fed: " + g.hungry
	}
	return model.GuardState{Level: level, DStop: g.longest, Watchdog: g.dog.name(), Detail: why}
}

// List shows all protected VMs.
func (g *Guard) List() []Entry {
	g.mu.Lock()
	defer g.mu.Unlock()
	at := now()
	out := []Entry{}
	for uuid, v := range g.vms {
		r := v.rec
		e := Entry{
			UUID: uuid, Generation: r.Generation, Floor: r.Floor, Mode: r.Mode, Action: r.Action, Deadline: r.Deadline,
			Why: r.closed(at, g.o.Early), Copies: []Copy{},
		}
		e.MayStart = e.Why == ""
		if r.Generation > 0 {
			e.Left = int64(r.Deadline.Sub(at))
		}
		for _, c := range v.copies {
			e.Copies = append(e.Copies, Copy{c.PID, c.Started, c.state()})
		}
		slices.SortFunc(e.Copies, func(a, b Copy) int { return a.PID - b.PID })
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b Entry) int {
		if a.UUID < b.UUID {
			return -1
		}
		return 1
	})
	return out
}

func (c *copyOf) state() string {
	switch {
	case c.want == mayRun && c.proved:
		return "running"
	case c.want == mayRun:
		return "thawing"
	case c.want == mustFreeze && c.proved:
		return "frozen"
	case c.want == mustFreeze:
		return "freezing"
	case c.proved:
		return "gone"
	}
	return "killing"
}
