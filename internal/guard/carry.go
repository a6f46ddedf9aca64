package guard

import (
	"errors"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"understudy/internal/model"
)

// before says that another copy on this host was started earlier: of two, the younger stands.
func (v *vm) before(c *copyOf) bool {
	for _, o := range v.copies {
		if o.Started < c.Started || o.Started == c.Started && o.PID < c.PID {
			return true
		}
	}
	return false
}

// wants is the order for a copy by now. Under the lock.
func (g *Guard) wants(v *vm, c *copyOf, at model.BootTime) (order, string) {
	return v.rec.wants(c.Started, v.before(c), at, g.o.Early)
}

// order gives each copy its order, and hands it to somebody where it is not known to be carried out. It returns why the
// watchdog must not be fed: a copy that others count on to stand, and no proof in the time of both lines. Under the lock.
func (g *Guard) order(v *vm, at model.BootTime) (late string) {
	for c := range maps.Values(v.copies) {
		want, why := g.wants(v, c, at)
		c.turn(want, why, at)
		if v.rec.bound() && want != mayRun && !c.proved && at >= c.since.Add(g.o.FreezeProof+g.o.KillProof) {
			late = "no proof that it stands: " + why
		}
		// What was proved is looked at again each time: anybody can send SIGCONT.
		if !c.busy && (want != mayRun || !c.proved) {
			c.busy = true
			g.acts.Add(1)
			go func() {
				defer g.acts.Done()
				g.carryOut(v, c)
			}()
		}
	}
	return late
}

// turn notes a new order. The time runs on while one way to stand follows another that was not proved.
func (c *copyOf) turn(want order, why string, at model.BootTime) {
	if want == c.want {
		c.why = why
		return
	}
	if c.want == mayRun || want == mayRun || c.proved {
		c.since = at
	}
	c.want, c.why, c.proved = want, why, false
}

// carryOut makes one copy as it has to be, whatever that is by the time: the order is read again after every step.
func (g *Guard) carryOut(v *vm, c *copyOf) {
	v.act.Lock()
	defer v.act.Unlock()
	fd, err := g.hand.proc.pidfd(c.process)
	if err != nil {
		g.mu.Lock()
		defer g.mu.Unlock()
		c.busy = false
		c.proved = errors.Is(err, unix.ESRCH) // gone; anything else is tried again at the next scan
		return
	}
	defer unix.Close(fd)
	for done := false; !done; {
		g.mu.Lock()
		want, why := g.wants(v, c, now())
		c.turn(want, why, now())
		held, ours := v.frozenBy(c)
		g.mu.Unlock()
		proved := false
		switch {
		case want == mayRun && !ours: // what we did not stop is not ours to let go on
			proved = true
		case want == mayRun:
			proved = g.letGo(v, c, held, fd)
		case want == mustFreeze:
			proved = g.standStill(v, c, held, ours, fd)
		default:
			proved = g.end(v, c, fd)
		}
		g.mu.Lock()
		again, whyNow := g.wants(v, c, now())
		c.turn(again, whyNow, now())
		if done = again == want || !proved; done {
			c.proved = proved && again == want
			c.busy = false
		}
		g.mu.Unlock()
	}
}

func (v *vm) frozenBy(c *copyOf) (frozen, bool) {
	i := slices.IndexFunc(v.rec.Frozen, func(f frozen) bool { return f.PID == c.PID && f.Started == c.Started })
	if i < 0 {
		return frozen{}, false
	}
	return v.rec.Frozen[i], true
}

// remember notes how a copy is stopped before it is, so that a guard which is restarted in between can let it go on; nil: no more.
func (g *Guard) remember(v *vm, c *copyOf, how *frozen) {
	g.mu.Lock()
	defer g.mu.Unlock()
	v.rec.Frozen = slices.DeleteFunc(slices.Clone(v.rec.Frozen), func(f frozen) bool { return f.PID == c.PID && f.Started == c.Started })
	if how != nil {
		v.rec.Frozen = append(v.rec.Frozen, *how)
	}
	g.save(v.rec)
}

func (g *Guard) letGo(v *vm, c *copyOf, how frozen, fd int) bool {
	g.mu.Lock()
	at := now()
	want, _ := g.wants(v, c, at) // once more, right before
	rec := v.rec
	g.mu.Unlock()
	if want != mayRun {
		return false
	}
	err := g.hand.thaw(how, fd)
	e := g.event("thaw", c, rec)
	e.BootTime, e.By = at, how.by()
	if err != nil {
		e.Why = err.Error()
	}
	g.journal.note(e)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return false
	}
	g.remember(v, c, nil)
	return true
}

// standStill freezes, and kills what it cannot prove frozen.
func (g *Guard) standStill(v *vm, c *copyOf, how frozen, ours bool, fd int) bool {
	if ours && g.hand.isFrozen(how, fd) {
		return true
	}
	if !ours {
		how = g.hand.way(c.process)
		g.remember(v, c, &how)
	}
	proved, err := g.hand.freeze(how, fd)
	if err != nil && how.Cgroup != "" {
		how.Cgroup = ""
		g.remember(v, c, &how)
		proved, err = g.hand.freeze(how, fd)
	}
	g.told("freeze", v, c, how.by(), proved, err)
	return proved || g.end(v, c, fd)
}

func (g *Guard) end(v *vm, c *copyOf, fd int) bool {
	proved := g.hand.kill(c.process, fd)
	g.told("kill", v, c, "signal", proved, nil)
	return proved
}

// told notes what was done, and how long it took from the order to the proof.
func (g *Guard) told(what string, v *vm, c *copyOf, by string, proved bool, err error) {
	at := now()
	g.mu.Lock()
	e := g.event(what, c, v.rec)
	took := at.Sub(c.since)
	if proved {
		g.longest = max(g.longest, took)
	}
	e.Why = c.why
	g.mu.Unlock()
	e.BootTime, e.By, e.Proved, e.TookNS = at, by, &proved, int64(took)
	if err != nil {
		e.Why += ": " + err.Error()
	}
	g.journal.note(e)
	g.o.Log.Warn(what, "uuid", c.UUID, "pid", c.PID, "by", by, "proved", proved, "took", took, "why", e.Why)
}

func (g *Guard) event(what string, c *copyOf, r record) Event {
	return Event{Event: what, UUID: c.UUID, PID: c.PID, Started: c.Started, Generation: r.Generation, Mode: r.Mode, Deadline: r.Deadline}
}

func (f frozen) by() string {
	if f.Cgroup != "" {
		return "cgroup"
	}
	return "signal"
}
