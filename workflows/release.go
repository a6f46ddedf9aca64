package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// releaseAfter is how long a standby is silent before its primary is let go of, where the policy wants that.
const releaseAfter = time.Minute

// standbySilent begins the wait for release, once.
func (p *protection) standbySilent(ctx workflow.Context) {
	if p.silent(p.st.Standby) && p.st.StandbySilentAt == nil {
		now := workflow.Now(ctx)
		p.st.StandbySilentAt = &now
	}
	if !p.waiting && p.silent(p.st.Standby) {
		p.waiting = true
		workflow.Go(ctx, p.awaitRelease)
	}
}

// awaitRelease wakes the loop when the standby has been silent for long enough.
func (p *protection) awaitRelease(ctx workflow.Context) {
	defer func() { p.waiting = false }()
	left := releaseAfter - workflow.Now(ctx).Sub(*p.st.StandbySilentAt)
	if left > 0 {
		_, _ = workflow.AwaitWithOptions(ctx, workflow.AwaitOptions{
			Timeout: left, TimerOptions: workflow.TimerOptions{Summary: string(p.st.Standby) + " is silent: may the lease be released?"},
		}, func() bool { return !p.silent(p.st.Standby) })
	}
	p.wake = true
}

// mayRelease: the policy would rather have a VM that survives the loss of the control plane too than a failover that needs no
// person, while the standby is away.
func (p *protection) mayRelease(ctx workflow.Context) bool {
	st := p.st
	l := st.Lease
	return st.Policy.OnStandbyLoss == model.OnStandbyLossRelease && st.StandbySilentAt != nil && workflow.Now(ctx).Sub(*st.StandbySilentAt) >= releaseAfter &&
		l != nil && l.Generation == st.Generation && l.Mode == model.ModeLeased &&
		p.silent(st.Standby) && !p.silent(st.Primary) && st.Off == "" && !workflow.Now(ctx).Before(p.bindAt)
}

// letGo burns a generation: a lease is never loosened inside one [C16]. The claim and the permit are for the same host, so they
// need no evidence; the record is at sole before the holder is told [C14], and what is not told yet keeps its deadline.
func (p *protection) letGo(ctx workflow.Context) {
	st := p.st
	g := max(st.Claimed, st.Generation) + 1
	st.Claimed = g
	fence := contract.Fence{VM: p.vm, Generation: g}
	attempt := fmt.Sprintf("%s/release/%d", p.id(), g)
	_, err := contract.Claim.Execute(ctx, contract.ControlQueue, fmt.Sprintf("claim generation %d for %s itself", g, st.Primary), contract.ClaimIn{
		Fence: fence, Target: st.Primary, Attempt: attempt, Expect: st.Generation,
	})
	if err != nil && final(err) { // refused: nothing is open
		p.bindAt = workflow.Now(ctx).Add(bindAgain)
		p.log.Warn("the lease was not released", "error", err)
		return
	}
	// A claim that is left open would take the VM its last grantor, so it is closed whatever happens.
	free, cancel := workflow.NewDisconnectedContext(ctx)
	defer cancel()
	err = persist(free, undoAttempts, func(ctx workflow.Context) error {
		out, err := contract.Permit.Execute(ctx, contract.ControlQueue, fmt.Sprintf("generation %d may run on %s", g, st.Primary), contract.PermitIn{
			Fence: fence, Host: st.Primary, Attempt: attempt, Mode: model.ModeSole,
		})
		if err == nil {
			st.Generation = out.Record.Permitted
		}
		return err
	})
	if err != nil {
		p.bindAt = workflow.Now(ctx).Add(bindAgain)
		p.log.Error("the claim of a release could not be closed", "error", err)
		return
	}
	st.TakeUp = true // the holder is told the mode with the generation
	p.log.Info("the lease is released: the standby is away", "generation", uint64(g))
}
