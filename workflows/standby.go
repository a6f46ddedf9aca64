package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/model"
)

const silentPause = 30 * time.Second

// prepareStandby makes the returning host the standby: it gives up its old copy durably, is checked, and is watched again.
// The first point on it stands alone: what its store holds is of an older role.
func (p *protection) prepareStandby(ctx workflow.Context) {
	p.keep(ctx)
	p.bind(ctx)
	if c := p.decideStandby(ctx); c.StartIn > 0 {
		p.rest(ctx, c)
		return
	}
	err := p.demote(ctx)
	if err == nil {
		err = p.check(ctx)
	}
	if err == nil {
		err = p.seed(ctx)
	}
	if err != nil {
		p.blind++
		p.backOff(ctx, p.blind+2)
		if p.silent(p.st.Standby) {
			at := workflow.Now(ctx).Add(silentPause) // its return ends the wait
			p.st.RetryAt = &at
		}
		p.alert(ctx, contract.AlertStandbyNotReady, fmt.Sprintf("%s is not a standby yet: %s", p.st.Standby, sentence(err)), advice(err))
		return
	}
	p.blind, p.st.RetryAt = 0, nil
	p.heard(p.st.Standby)
	p.attach(ctx)
	p.clear(contract.AlertStandbyNotReady)
	p.st.StandbyReady = true
	p.look = true
}

// decideStandby waits out the back-off; a host that was heard again ends it.
func (p *protection) decideStandby(ctx workflow.Context) model.Cadence {
	now := workflow.Now(ctx)
	c := model.Cadence{NextAt: now, Skip: true, Binding: model.BindingWaiting, Reason: string(p.st.Standby) + " is not ready"}
	if at := p.st.RetryAt; at != nil && at.After(now) {
		c.StartIn, c.NextAt = at.Sub(now), *at
	}
	return c
}

// demote is the surrender of the old copy, under the generation that replaced it: floor, stop, proof. The attempt is that
// of the failover, because a floor belongs to one attempt.
func (p *protection) demote(ctx workflow.Context) error {
	in := contract.SurrenderIn{Fence: p.fence(), Attempt: contract.FailoverID(p.vm.UUID, p.st.Generation), Demote: true}
	_, err := stage(p, ctx, contract.Surrender, p.queue(p.st.Standby), "give the old copy up", in)
	return err
}

func (p *protection) check(ctx workflow.Context) error {
	primary, standby, err := p.preflight(ctx)
	if err != nil {
		return err
	}
	p.st.Disks = primary.Disks
	p.warned(primary, standby)
	p.link(p.st.Primary, primary.Facts)
	p.link(p.st.Standby, standby.Facts)
	return nil
}

// link remembers where a host's receiver listens.
func (p *protection) link(h model.HostID, facts model.HostFacts) {
	if facts.LinkAddress != "" {
		p.st.Links[string(h)] = facts.LinkAddress
	}
	if facts.GrantorID != "" {
		if p.st.Leases == nil {
			p.st.Leases = map[string]contract.HostLease{}
		}
		p.st.Leases[string(h)] = contract.HostLease{GrantorID: facts.GrantorID, Terms: facts.Terms}
	}
}
