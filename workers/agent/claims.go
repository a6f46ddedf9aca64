package agent

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"understudy/internal/contract"
	"understudy/internal/decide/allocate"
	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

const (
	// Before anything was measured: bytes on the wire per byte written, what a cycle costs beside the transfer, and how much longer
	// a transfer may take than computed.
	unseenWire  = 0.6
	unseenFixed = 300 * time.Millisecond
	tracedGuard = 1.5
	coldGuard   = 2.0

	mostSampled = 15 * time.Second
	settled     = 0.1 // a claim that changed by less is not written down again
	mostNamed   = 10
)

// claim is what a VM reserves of the link, kept over restarts of the agent.
type claim struct {
	Tier   model.Tier `json:"tier,omitempty"`
	Demand int64      `json:"demand,omitempty"` // bytes on the wire each half of the RPO
}

// claims is what the shares ask of the watcher. It is asked while their lock is held, and never asks back.
type claims interface {
	claimOf(uuid string) claim
	keepClaim(uuid string, c claim)
	demands(skip string) []allocate.Demand
	written(ctx context.Context, vm model.VMRef, during time.Duration) (bytes int64, took time.Duration, err error)
}

func (s *shares) claimed(uuid string) int64 {
	if s.book == nil {
		return 0
	}
	return s.book.claimOf(uuid).Demand
}

// grown is the claim after a learned demand: a smaller one gives room back at once, a larger one is taken as far as all claims
// together stay within what can be promised. A VM that grows is admitted for it like a new one.
func (s *shares) grown(uuid string, held, demand int64, rpo time.Duration) int64 {
	if s.book == nil || held <= 0 || demand <= held {
		return demand
	}
	free := allocate.Comfortable
	for _, d := range s.book.demands(uuid) {
		free -= d.Load(s.budget)
	}
	most := int64(free * float64(s.budget) * rpo.Seconds() / 2)
	return max(held, min(demand, most))
}

// keep writes the claim down, unless it hardly changed.
func (s *shares) keep(t *share, a *account) {
	if s.book == nil || t.in.Demand <= 0 {
		return
	}
	old, now := s.book.claimOf(t.in.VM.UUID), claim{Tier: t.in.Tier, Demand: a.demand}
	if old.Tier == now.Tier && max(old.Demand-now.Demand, now.Demand-old.Demand) <= int64(settled*float64(old.Demand)) {
		return
	}
	s.book.keepClaim(t.in.VM.UUID, now)
}

// Admit implements activities.Shares: at the smallest RPO that the policy ever asks for. A VM of which no trace is given is
// looked at for half of its RPO, at most 15 s.
func (s *shares) Admit(ctx context.Context, vm model.VMRef, p model.Policy, in contract.AdmissionIn) (*contract.Admission, error) {
	if s.budget <= 0 || s.book == nil {
		return nil, nil
	}
	strict, window := p.Strictest()
	asked := allocate.Demand{
		ID: vm.Name, Tier: strict.Tier, RPO: strict.RPO, Half: cmp.Or(in.Strict, in.Demand), Fixed: unseenFixed, Guard: tracedGuard, Cap: strict.MaxBandwidth,
	}
	out := &contract.Admission{Budget: s.budget, Demand: in.Demand, Window: window}
	if in.Demand <= 0 {
		bytes, took, err := s.book.written(ctx, vm, min(max(p.RPO/2, 2*time.Second), mostSampled))
		if err != nil {
			return nil, err
		}
		rate := float64(bytes) / max(took.Seconds(), 0.1)
		asked.Half, asked.Guard, asked.Sampled = halfOf(rate, strict.RPO), coldGuard, true
		out.Demand, out.Sampled = halfOf(rate, p.RPO), took.Seconds()
	}
	others := s.book.demands(vm.UUID)
	a := allocate.Admit(s.budget, others, asked)
	out.Verdict, out.Reason, out.Before, out.After, out.Promised, out.Late = string(a.Verdict), a.Reason, a.Before, a.Load, a.Promised, a.Late
	if window != "" {
		out.Reason += fmt.Sprintf("; judged at the RPO of %s in the window %q", strict.RPO, window)
	}
	slices.SortFunc(others, func(x, y allocate.Demand) int {
		return cmp.Or(-cmp.Compare(x.Load(s.budget), y.Load(s.budget)), cmp.Compare(x.ID, y.ID))
	})
	for _, d := range others[:min(len(others), mostNamed)] {
		out.Others = append(out.Others, fmt.Sprintf("%s (%s, RPO %s) %.0f %%", d.ID, d.Tier, d.RPO, 100*d.Load(s.budget)))
	}
	return out, nil
}

// halfOf carries a rate of writing to half of an RPO, on the wire. Counters count what is written twice twice: an upper bound.
func halfOf(rate float64, rpo time.Duration) int64 {
	return int64(unseenWire * max(rate, 0) * rpo.Seconds() / 2)
}

var _ claims = (*watcher)(nil)

func (w *watcher) claimOf(uuid string) claim {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e, ok := w.vms[uuid]; ok {
		return e.Claim
	}
	return claim{}
}

func (w *watcher) keepClaim(uuid string, c claim) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e, ok := w.vms[uuid]; ok && e.Claim != c {
		e.Claim = c
		w.list.save(e)
	}
}

// demands are the claims of the VMs that are served here, but for one; a VM that has none yet counts as it writes now.
func (w *watcher) demands(skip string) []allocate.Demand {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []allocate.Demand
	for uuid, e := range w.vms {
		if uuid == skip || e.Muted || e.RPO <= 0 {
			continue
		}
		d := allocate.Demand{ID: e.VM.Name, Tier: e.Claim.Tier, RPO: e.RPO, Half: e.Claim.Demand}
		if d.Half <= 0 {
			d.Half, d.Sampled = halfOf(e.Meter.rate, e.RPO), true
		}
		if d.Tier == "" {
			d.Tier = model.DefaultPolicy().Tier
		}
		out = append(out, d)
	}
	return out
}

// written looks at the write counters of a VM that is not served here yet. One that does not run writes nothing.
func (w *watcher) written(ctx context.Context, vm model.VMRef, during time.Duration) (int64, time.Duration, error) {
	ask := func() (hypervisor.Stats, bool, error) {
		ctx, cancel := context.WithTimeout(ctx, statsLimit)
		defer cancel()
		all, err := w.hv.Stats(ctx, hypervisor.StatsQuery{Only: []string{vm.UUID}})
		if err != nil || len(all) == 0 {
			return hypervisor.Stats{}, false, err
		}
		return all[0], true, nil
	}
	begun := w.now()
	first, runs, err := ask()
	if err != nil || !runs {
		return 0, 0, err
	}
	pause(ctx, during)
	if ctx.Err() != nil {
		return 0, 0, model.Fail(model.Unreachable, ctx.Err(), "the look at the VM's writes was interrupted").WithVM(vm.Name).WithHost(w.host)
	}
	last, runs, err := ask()
	if err != nil {
		return 0, 0, err
	}
	if !runs || last.Run != first.Run || last.WriteBytes < first.WriteBytes { // it ended, or began again
		return last.WriteBytes, w.now().Sub(begun), nil
	}
	return last.WriteBytes - first.WriteBytes, w.now().Sub(begun), nil
}
