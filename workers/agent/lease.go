package agent

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"understudy/internal/guard"
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
)

// guarded is the guard of this host as the agent last saw it.
type guarded struct {
	*guard.Client
	base model.LeaseTerms // TTL and renew period of this agent
	log  *slog.Logger

	mu    sync.Mutex
	state model.GuardState
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
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.state.Level != s.Level {
		g.log.Info("guard_level", "level", s.Level, "was", g.state.Level, "detail", s.Detail)
	}
	g.state = s
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
	a.holder = lease.NewHolder(lease.HolderOptions{
		Host: a.opts.Host, State: state, Clock: clock, Guard: a.guard, Renewer: a.renewer, Terms: a.guard.terms, Log: a.log,
	})
	return nil
}

// grant answers the renewals of other hosts' agents.
func (a *agent) grant(state *lease.State) link.Responder {
	return workers.Granting(state.Grant)
}

// stopping is libvirt that can end a frozen copy: libvirt alone asks QEMU to end and waits for an answer first.
type stopping struct {
	*libvirtrpc.Client
	holder *lease.Holder
}

func (s stopping) Destroy(ctx context.Context, uuid string) error {
	limit, cancel := context.WithTimeout(ctx, freezeLimit)
	defer cancel()
	if err := s.holder.Stop(limit, uuid); err != nil && !guard.Away(err) {
		return err
	}
	return s.Client.Destroy(ctx, uuid)
}

func statesIn(opts Options) string { return filepath.Join(opts.StateDir, "floors") }
