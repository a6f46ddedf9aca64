package lease

import (
	"context"
	"errors"
	"time"

	"understudy/internal/model"
)

var errAway = errors.New("it does not answer")

// guardModel is what the protocol asks of a guard, at its latest: it stops a copy D_stop after the deadline, and the
// watchdog resets the host T_wd and a second after the guard died.
type guardModel struct {
	h     *host
	alive bool
	level int
	dead  time.Duration // since when, of this host's running time
	rec   model.GuardArm
	cut   bool
	floor model.Generation
}

func (g *guardModel) Arm(_ context.Context, a model.GuardArm) error {
	switch {
	case !g.alive:
		return errAway
	case a.BootID != g.h.clock.BootID(), a.Generation < max(g.rec.Generation, g.floor):
		return model.Fail(model.StaleGeneration, nil, "it is over")
	case a.Generation == g.rec.Generation && a.Mode.Rank() < g.rec.Mode.Rank():
		return model.Fail(model.Conflict, nil, "modes go one way")
	}
	same := a.Generation == g.rec.Generation
	switch {
	case same && g.cut && a.Deadline <= g.h.clock.Now():
		a.Deadline = g.rec.Deadline
	case same && !g.cut:
		a.Deadline = max(a.Deadline, g.rec.Deadline)
	default:
		g.cut = false
	}
	g.rec, g.floor = a, a.Generation
	g.apply()
	return nil
}

func (g *guardModel) Freeze(_ context.Context, _ string, gen model.Generation) error {
	if !g.alive {
		return errAway
	}
	if gen == g.rec.Generation {
		g.cut = true
	}
	g.apply()
	return nil
}

func (g *guardModel) Stop(_ context.Context, _ string, below model.Generation) error {
	if !g.alive {
		return errAway
	}
	g.floor = max(g.floor, below)
	if g.rec.Generation < below {
		g.h.qemu = nil
	}
	return nil
}

func (g *guardModel) Forget(context.Context, string) error {
	if !g.alive {
		return errAway
	}
	g.rec, g.cut, g.floor = model.GuardArm{}, false, 0
	return nil
}

func (g *guardModel) State(context.Context) (model.GuardState, error) {
	return model.GuardState{Level: g.level}, nil
}

// open is the start gate; it fails closed.
func (g *guardModel) open() bool {
	return g.alive && g.rec.Generation > 0 && g.floor <= g.rec.Generation && !g.cut && g.h.clock.Now() < g.rec.Deadline
}

// apply is one look at the copy.
func (g *guardModel) apply() {
	c := g.h.qemu
	if !g.alive || c == nil || g.h.asleep {
		return
	}
	now, r := g.h.clock.Now(), g.rec
	switch {
	case r.Generation == 0 || g.floor > r.Generation || g.cut:
		c.frozen = true
	case now < r.Deadline || r.Mode == model.ModeSole && c.started <= r.Deadline:
		c.frozen = false
	case now >= r.Deadline.Add(g.h.w.terms.DStop):
		c.frozen = true
		if r.Action == model.IsolationKill {
			g.h.qemu = nil
		}
	}
}
