package workflows

import (
	"fmt"
	"net"
	"slices"
	"time"

	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/model"
)

const bindAgain = 15 * time.Second // after a step of binding that failed

// bind makes the primary's lease what it should be, a step at a time; nothing waits for it. Inside a generation a mode goes one
// way: probation, sole, leased. To sole the control plane's record goes first, to leased the holder [C14]. The record is the
// authority; what is kept here only saves asking.
func (p *protection) bind(ctx workflow.Context) {
	st := p.st
	if p.silent(st.Primary) || st.Off != "" || st.TakeUp || st.Grantor == nil || workflow.Now(ctx).Before(p.bindAt) {
		return
	}
	if err := p.bindStep(ctx); err != nil {
		p.bindAt = workflow.Now(ctx).Add(bindAgain)
		if st.Lease != nil {
			st.Lease.Why = clip(sentence(err))
		}
		p.log.Warn("the lease is not what it should be", "error", err)
	}
}

func (p *protection) bindStep(ctx workflow.Context) error {
	st := p.st
	if l := st.Lease; l == nil || l.Generation != st.Generation || l.Mode == model.ModeProbation {
		return p.bindSole(ctx)
	}
	want, why := p.mayLease()
	if why != "" {
		st.Lease.Why = why
		return p.followControl(ctx)
	}
	if st.Lease.Mode == model.ModeLeased && slices.Equal(st.Lease.Grantors, want) {
		st.Lease.Why = ""
		return nil
	}
	return p.bindLeased(ctx, want)
}

// followControl tells the holder where the control plane's grantor is now; its mode stays.
func (p *protection) followControl(ctx workflow.Context) error {
	held := *p.st.Lease
	at := slices.IndexFunc(held.Grantors, model.Grantor.Control)
	if at < 0 || held.Grantors[at] == *p.st.Grantor {
		return nil
	}
	if held.Mode == model.ModeSole {
		return p.bindSole(ctx)
	}
	grantors := slices.Clone(held.Grantors)
	grantors[at] = *p.st.Grantor
	return p.bindLeased(ctx, grantors)
}

// onGrantor: the control plane grants leases under another address, or as another one.
func (p *protection) onGrantor(_ workflow.Context, in contract.GrantorMoved) {
	p.st.Grantor = &in.Grantor
	p.bindAt = time.Time{}
}

// bindSole adopts the running VM, or commits a takeover.
func (p *protection) bindSole(ctx workflow.Context) error {
	st := p.st
	rec, err := contract.SetMode.Execute(ctx, contract.ControlQueue, "mode sole", contract.SetModeIn{Fence: p.fence(), Host: st.Primary, Mode: model.ModeSole})
	leased := err != nil && kindOf(err) == model.Conflict // the record is further than our memory of it
	if err != nil && !leased {
		return err
	}
	if rec.Grantor != nil {
		st.Grantor = rec.Grantor
	}
	held, err := contract.Hold.Execute(ctx, p.queue(st.Primary), string(st.Primary)+" holds "+p.vm.Name, contract.HoldIn{
		Fence: p.fence(), Mode: model.ModeSole, Grantors: p.control(), Action: st.Policy.Isolation,
	})
	if err != nil && (!leased || kindOf(err) != model.Conflict) {
		return err
	}
	st.Lease = &contract.LeaseState{Generation: st.Generation, Mode: model.ModeSole, Terms: held.Terms, Grantors: p.control()}
	return nil
}

func (p *protection) bindLeased(ctx workflow.Context, grantors []model.Grantor) error {
	st := p.st
	held, err := contract.Hold.Execute(ctx, p.queue(st.Primary), "bind it by a lease", contract.HoldIn{
		Fence: p.fence(), Mode: model.ModeLeased, Grantors: grantors, Action: st.Policy.Isolation,
	})
	if err != nil {
		return err
	}
	if _, err := contract.SetMode.Execute(ctx, contract.ControlQueue, "mode leased", contract.SetModeIn{
		Fence: p.fence(), Host: st.Primary, Mode: model.ModeLeased, Terms: held.Terms,
	}); err != nil {
		return err
	}
	st.Lease = &contract.LeaseState{Generation: st.Generation, Mode: model.ModeLeased, Terms: held.Terms, Grantors: grantors}
	p.log.Info("bound by a lease", "wait", held.Terms.Wait().String(), "guard_level", held.Terms.GuardLevel)
	return nil
}

// mayLease gives the grantors of a lease, or why there is none and a takeover of a silent host needs a fence or a person.
func (p *protection) mayLease() ([]model.Grantor, string) {
	st := p.st
	peer, known := st.Leases[string(st.Standby)]
	level := st.Leases[string(st.Primary)].Terms.GuardLevel
	if st.Lease.Terms.TTL > 0 {
		level = st.Lease.Terms.GuardLevel
	}
	if o := st.Observed; o != nil && o.Terms.TTL > 0 { // what a signal brings has none
		level = o.Terms.GuardLevel
	}
	switch {
	case st.Policy.Isolation == model.IsolationKeep:
		return nil, "the policy keeps an isolated VM running"
	case level < 1:
		return nil, fmt.Sprintf("%s has no guard", st.Primary)
	case level < st.Policy.GuardLevel:
		return nil, fmt.Sprintf("the guard of %s has level %d, the policy wants %d", st.Primary, level, st.Policy.GuardLevel)
	case !st.StandbyReady || st.Committed.IsZero():
		return nil, "there is nothing to fail over to yet"
	case p.silent(st.Standby):
		return nil, string(st.Standby) + " is not heard"
	case !known || st.Links[string(st.Standby)] == "":
		return nil, string(st.Standby) + " does not say how it grants"
	}
	for _, h := range []model.HostID{st.Primary, st.Standby} {
		if sameHost(st.Grantor.Address, st.Links[string(h)]) {
			return nil, fmt.Sprintf("the control plane stands on %s: it would be lost together with it", h)
		}
	}
	return append([]model.Grantor{{Host: st.Standby, Address: st.Links[string(st.Standby)], ID: peer.GrantorID}}, p.control()...), ""
}

func sameHost(a, b string) bool {
	x, _, errX := net.SplitHostPort(a)
	y, _, errY := net.SplitHostPort(b)
	return errX == nil && errY == nil && x == y
}

// control is the control plane's grantor alone: whoever starts a generation, or holds it on probation or sole, hears it.
func (p *protection) control() []model.Grantor {
	if p.st.Grantor == nil {
		return nil
	}
	return []model.Grantor{*p.st.Grantor}
}
