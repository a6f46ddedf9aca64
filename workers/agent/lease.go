package agent

import (
	"context"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"understudy/internal/guard"
	"understudy/internal/hypervisor"
	"understudy/internal/hypervisor/libvirtrpc"
	"understudy/internal/lease"
	"understudy/internal/link"
	"understudy/internal/model"
	"understudy/workers"
)

const (
	guardPeriod = time.Second
	guardLimit  = 800 * time.Millisecond
	freezeLimit = 5 * time.Second
	// destroyLimit is what QEMU has to end by itself: libvirt gives it ten seconds, also one that stands still.
	destroyLimit = 4 * time.Second
)

// guarded is the guard of this host as the agent last saw it.
type guarded struct {
	*guard.Client
	base model.LeaseTerms // TTL and renew period of this agent
	log  *slog.Logger

	// moving says that the VM stands still for a switchover; entry is what this host holds of it.
	moving func(uuid string) bool
	entry  func(uuid string) (lease.Entry, error)

	mu      sync.Mutex
	state   model.GuardState
	stopped map[string]bool // by UUID: its copies stand still or are being stopped
}

func newGuarded(opts Options, log *slog.Logger) *guarded {
	socket := opts.GuardSocket
	if socket == "" {
		socket = guard.Socket(opts.RunDir)
	}
	terms := model.DefaultTerms(0)
	terms.TTL, terms.Renew = opts.LeaseTTL, opts.LeaseRenew
	return &guarded{Client: guard.Dial(socket), base: terms, log: log, state: model.GuardState{Detail: "not asked yet"}}
}

// run looks at the guard until ctx ends.
func (g *guarded) run(ctx context.Context) {
	for {
		g.look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-time.After(guardPeriod):
		}
	}
}

func (g *guarded) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, guardLimit)
	defer cancel()
	s, err := g.State(ctx)
	if err != nil {
		s = model.GuardState{Detail: err.Error()}
	}
	list, err := g.List(ctx)
	g.mu.Lock()
	defer g.mu.Unlock()
	if err == nil {
		g.stopped = standing(list)
	}
	if g.state.Level != s.Level {
		g.log.Info("guard_level", "level", s.Level, "was", g.state.Level, "detail", s.Detail)
	}
	g.state = s
}

// standing are the VMs of which no copy runs although there is one.
func standing(list []guard.Entry) map[string]bool {
	out := map[string]bool{}
	for _, e := range list {
		running := slices.ContainsFunc(e.Copies, func(c guard.Copy) bool { return c.State == "running" || c.State == "thawing" })
		if len(e.Copies) > 0 && !running {
			out[e.UUID] = true
		}
	}
	return out
}

// standsStill says that QEMU of the VM does not answer, because the guard stopped it: whoever asks it waits, and whoever asks
// for many waits for it.
func (g *guarded) standsStill(uuid string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.stopped[uuid]
}

// standsStillNow asks.
func (g *guarded) standsStillNow(ctx context.Context, uuid string) bool {
	ctx, cancel := context.WithTimeout(ctx, guardLimit)
	defer cancel()
	list, err := g.List(ctx)
	if err != nil {
		return g.standsStill(uuid)
	}
	return standing(list)[uuid]
}

// Freeze leaves a VM that stands still for a switchover to its deadline: it is asked what it wrote before it is given up,
// and a frozen one does not answer. Only where there is a deadline.
func (g *guarded) Freeze(ctx context.Context, uuid string, gen model.Generation) error {
	if g.moving(uuid) {
		if e, err := g.entry(uuid); err == nil && (e.Mode == model.ModeLeased || e.Mode == model.ModeProbation) {
			return nil
		}
	}
	return g.Client.Freeze(ctx, uuid, gen)
}

func (g *guarded) last() model.GuardState {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state
}

// terms by which this host would hold a lease now. A stop that was measured longer than the default counts.
func (g *guarded) terms() model.LeaseTerms {
	s, t := g.last(), g.base
	t.GuardLevel, t.DStop = s.Level, max(t.DStop, s.DStop)
	return t
}

// leases makes the holder of this host's leases.
func (a *agent) leases(state *lease.State) error {
	clock, err := lease.SystemClock()
	if err != nil {
		return err
	}
	a.renewer = &workers.Renewer{Dial: func(ctx context.Context, address string) (*link.Client, error) {
		return workers.DialLink(ctx, a.tls, address)
	}}
	a.guard = newGuarded(a.opts, a.log)
	a.guard.entry = state.Get
	a.guard.moving = func(uuid string) bool { return a.restorer.PausedNow(uuid) }
	a.holder = lease.NewHolder(lease.HolderOptions{
		Host: a.opts.Host, State: state, Clock: clock, Guard: a.guard, Renewer: a.renewer, Terms: a.guard.terms, Log: a.log,
	})
	return nil
}

// grant answers the renewals of other hosts' agents.
func (a *agent) grant(state *lease.State) link.Responder {
	return workers.Granting(state.Grant)
}

// looking is libvirt that is asked nothing for which it has to ask QEMU: it answers about a VM that the guard has stopped.
type looking struct{ *libvirtrpc.Client }

func (l looking) Domain(ctx context.Context, nameOrUUID string) (hypervisor.Domain, error) {
	return l.Look(ctx, nameOrUUID)
}

func (l looking) Domains(ctx context.Context) ([]hypervisor.Domain, error) { return l.LookAll(ctx) }

// leasing is libvirt for who starts and stops VMs: a start needs a grant that lives, and a copy that stands still is ended by
// the guard, because libvirt asks QEMU to end and waits for long before it kills.
type leasing struct {
	looking
	guard  *guarded
	holder *lease.Holder
	entry  func(uuid string) (lease.Entry, error)
}

// Start looks once more, right before. A copy that is no protected VM, or that no grantor binds, has no grant.
func (l leasing) Start(ctx context.Context, uuid string) error {
	e, err := l.entry(uuid)
	if err != nil {
		return err
	}
	if e.Holds() && slices.ContainsFunc(e.Grantors, model.Grantor.Control) {
		if err := l.holder.MayRun(uuid, e.Hold); err != nil {
			now, stateErr := l.entry(uuid)
			if stateErr == nil && now.Holds() && now.Hold == e.Hold { // it was only slow: the next try asks for another grant
				return model.Fail(model.Unreachable, err, "the start took longer than its grant").WithVM(e.VM.Name)
			}
			return err
		}
	}
	return l.Client.Start(ctx, uuid)
}

// Destroy lets libvirt end a copy that runs, because QEMU then writes what it still holds. One that stands still, or does not
// go, the guard ends.
func (l leasing) Destroy(ctx context.Context, uuid string) error {
	if !l.guard.standsStillNow(ctx, uuid) {
		limit, cancel := context.WithTimeout(ctx, destroyLimit)
		err := l.Client.Destroy(limit, uuid)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
	limit, cancel := context.WithTimeout(ctx, freezeLimit)
	defer cancel()
	if err := l.holder.Stop(limit, uuid); err != nil && !guard.Away(err) {
		return err
	}
	return l.Client.Destroy(ctx, uuid)
}

// holding is the holder as the activities use it.
type holding struct {
	*lease.Holder
	guard    *guarded
	stateDir string
}

// Drop also minds the list of a guard that is away: a VM that stays on it could never be started here again.
func (h holding) Drop(ctx context.Context, vm model.VMRef) error {
	if h.Terms().GuardLevel < 1 {
		list, err := guard.Protected(h.stateDir)
		if err != nil {
			return model.Fail(model.Internal, err, "the guard's list of protected VMs cannot be read").WithVM(vm.Name)
		}
		if slices.Contains(list, vm.UUID) {
			if err := h.guard.Forget(ctx, vm.UUID); err != nil {
				return err
			}
		}
	}
	return h.Holder.Drop(ctx, vm)
}

func statesIn(opts Options) string { return filepath.Join(opts.StateDir, "floors") }
