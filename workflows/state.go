package workflows

import (
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/decide/mode"
	"understudy/internal/model"
)

func (p *protection) lastCapture() time.Time {
	if n := len(p.st.Recent); n > 0 {
		return p.st.Recent[n-1].TakenAt
	}
	return time.Time{}
}

// hindered is why a cycle cannot work now, whatever the law says; empty when it can.
func (p *protection) hindered() string {
	st := p.st
	switch {
	case st.Off != "":
		return "the VM is off: " + st.Off
	case p.silent(st.Primary):
		return string(st.Primary) + " is not heard"
	case p.silent(st.Standby):
		return string(st.Standby) + " is not heard"
	}
	return ""
}

func (p *protection) silent(h model.HostID) bool { return p.st.HostSilent[string(h)] }

// rest waits until the decided moment; true when it came undisturbed. A wait that assumes writes or plans none ends with
// a new look.
func (p *protection) rest(ctx workflow.Context, c model.Cadence) bool {
	p.st.Cadence = c
	p.show(ctx)
	if !p.sleep(ctx, c.NextAt.Sub(workflow.Now(ctx)), waitSummary(c)) {
		return false
	}
	p.look = p.look || c.Skip || p.st.Assumed || p.worthALook(ctx, c)
	if c.Binding == model.BindingIdle {
		p.st.Totals.Skipped++
	}
	return true
}

// sleep waits for d or until something wakes the loop; true when nothing did.
func (p *protection) sleep(ctx workflow.Context, d time.Duration, summary string) bool {
	woken, err := awaitFor(ctx, max(d, time.Millisecond), summary, func() bool { return p.wake })
	return err == nil && !woken
}

func waitSummary(c model.Cadence) string {
	what := "next"
	if c.Skip {
		what = "look"
	}
	return fmt.Sprintf("%s in %.1f s: %s", what, c.StartIn.Seconds(), c.Binding)
}

// idle waits for a person, a host or the time to try a failover again. After a failover that came to nothing a person may
// have started the VM by hand where it was; such a copy is looked for first, and is never failed over for being forgotten.
func (p *protection) idle(ctx workflow.Context, why string) {
	if p.look && !p.silent(p.st.Primary) {
		p.look = false
		if err := p.peek(ctx); err != nil || p.st.Failed == "" || p.wake {
			return
		}
	}
	now := workflow.Now(ctx)
	wait := idleWait
	if p.st.RetryAt != nil && p.st.FailoverTries > 0 {
		wait = min(max(p.st.RetryAt.Sub(now), time.Second), idleWait)
	}
	p.st.Cadence = model.Cadence{StartIn: wait, NextAt: now.Add(wait), Skip: true, Binding: model.BindingWaiting, Reason: why + ": " + p.st.Failed}
	p.show(ctx)
	if p.sleep(ctx, wait, why) && p.st.FailoverTries > 0 {
		p.failOverAgain(ctx)
	}
}

// observe looks at the VM; false when that failed, and then it is tried again later.
func (p *protection) observe(ctx workflow.Context) bool {
	err := p.peek(ctx)
	switch {
	case err == nil:
		if p.blind > 0 {
			p.blind, p.st.RetryAt, p.st.LastError = 0, nil, ""
		}
		p.refresh(ctx)
		return true
	case errors.Is(err, errInterrupted):
		return false
	}
	p.blind++
	p.backOff(ctx, p.blind)
	p.st.LastError = clip(sentence(err))
	switch mode.React(kindOf(err)) {
	case mode.Suspend, mode.Stop, mode.Ask:
		p.react(ctx, err)
	case mode.Retry, mode.Resync, mode.Reseed, mode.Prune, mode.NoFreeze:
	}
	return false
}

// peek asks the primary's agent what the VM does, and learns from the answer. The agent serves the VM from then on.
func (p *protection) peek(ctx workflow.Context) error {
	in := contract.ObserveIn{Fence: p.fence(), Committed: p.st.Committed, RPO: p.rpo(ctx)}
	out, err := stage(p, ctx, contract.Observe, p.queue(p.st.Primary), "look at the VM", in)
	if err != nil {
		return err
	}
	p.saw(ctx, out)
	return nil
}

// saw takes in what the primary's agent answered.
func (p *protection) saw(ctx workflow.Context, out model.Observation) {
	p.heard(p.st.Primary)
	if out.Running && p.st.Off != "" {
		p.vmIsBack(ctx)
	}
	p.look = false
	p.observed(ctx, out)
	if !out.Running && p.st.Off == "" {
		p.st.Off = "libvirt says " + out.State
	}
}

// observed learns from what the primary's agent saw. The oldest unreplicated write is only ever made younger by a verified
// point, except that an assumption may give way to what was seen.
func (p *protection) observed(ctx workflow.Context, o model.Observation) {
	st := p.st
	if st.Observed != nil && o.At.Before(st.Observed.At) || o.At.Before(p.lastCapture()) {
		return // told late
	}
	st.Observed = &o
	p.learnCounters(ctx, o)
	if fl := st.InFlight; fl != nil {
		if !fl.TakenAt.IsZero() && o.At.After(fl.TakenAt) && p.nextOrigin == nil {
			p.nextOrigin = o.OldestWrite
		}
		return
	}
	switch nothing := o.OldestWrite == nil && o.WriteReqs == 0 && o.DirtyBytes <= 0; {
	case o.OldestWrite != nil && (st.Unreplicated == nil || st.Assumed):
		st.Unreplicated, st.Assumed = o.OldestWrite, false
	case nothing && st.Assumed && !st.Committed.IsZero():
		st.Unreplicated, st.Assumed = nil, false
	case !nothing && st.Unreplicated == nil:
		st.Unreplicated, st.Assumed = &o.At, true
	}
}

// assumeWrites: while nobody can look, the VM may be writing.
func (p *protection) assumeWrites(ctx workflow.Context) {
	st := p.st
	if st.Unreplicated != nil {
		return
	}
	since := workflow.Now(ctx)
	if st.Observed != nil && st.Observed.At.Before(since) {
		since = st.Observed.At
	}
	p.assumeWritesFrom(since)
}

// assumeWritesFrom: a VM that wrote nothing up to a moment ago is not idle for that.
func (p *protection) assumeWritesFrom(at time.Time) {
	if p.st.Unreplicated == nil {
		p.st.Unreplicated, p.st.Assumed = &at, true
	}
}

func (p *protection) exposure(ctx workflow.Context) time.Duration {
	if p.st.Unreplicated == nil {
		return 0
	}
	return max(workflow.Now(ctx).Sub(*p.st.Unreplicated), 0)
}

// watchExposure is a coroutine of its own, because the loop may be stuck in a stage: it raises the alerts at three
// quarters of the target (when behind the plan), at the target and at twice the target, when they are due and not when
// somebody looks. A timer that is a little off is left alone: early
// ones fire for nothing, which is seldom, and late ones are late by less than anybody acts upon.
func (p *protection) watchExposure(ctx workflow.Context) {
	same := sameInstant
	if since(ctx, cancelledTimers) {
		same = func(was, is *time.Time) bool {
			if was == nil || is == nil {
				return was == is
			}
			moved, rpo := is.Sub(*was), p.rpo(ctx)
			return moved < rpo/littleEarly && -moved < rpo/littleLate
		}
	}
	for ctx.Err() == nil {
		p.judgeExposure(ctx)
		origin, rpo, phase, planned := p.st.Unreplicated, p.rpo(ctx), p.st.Phase, p.planned(ctx)
		changed := func() bool {
			return p.rpo(ctx) != rpo || p.st.Phase != phase || !same(origin, p.st.Unreplicated) || p.planned(ctx) != planned
		}
		at, rises := mode.NextThresholdOnPlan(p.exposure(ctx), rpo, planned)
		if origin == nil || !rises {
			_ = workflow.Await(ctx, changed)
			continue
		}
		left := max(at-p.exposure(ctx)+time.Millisecond, time.Second)
		_, _ = awaitFor(ctx, p.noLonger(ctx, left), fmt.Sprintf("exposure reaches %s", at), changed)
	}
}

// Parts of the target by which that timer may be off.
const (
	littleEarly = 10
	littleLate  = 50 // the first write after a capture is told as one sample earlier
)

func sameInstant(a, b *time.Time) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Equal(*b)
}

// judgeExposure brings the alerts and the count of violations up to date. The first copy is not late: nothing was promised
// before it.
func (p *protection) judgeExposure(ctx workflow.Context) {
	st := p.st
	age := p.exposure(ctx)
	st.Totals.MaxExposure = max(st.Totals.MaxExposure, age)
	rpo := p.rpo(ctx)
	level := mode.LevelOnPlan(age, rpo, p.planned(ctx))
	if st.Phase == model.PhaseSeeding && st.Totals.Cycles == 0 {
		level = mode.Met
	}
	if violated := level >= mode.Violated; violated != st.Violating {
		st.Violating = violated
		if violated {
			st.Totals.Violations++
		}
	}
	names := map[mode.Level]string{
		mode.AtRisk: contract.AlertRPOAtRisk, mode.Violated: contract.AlertRPOViolated, mode.Twice: contract.AlertRPOTwice,
	}
	for _, l := range []mode.Level{mode.AtRisk, mode.Violated, mode.Twice} {
		if l != level {
			p.clear(names[l])
		}
	}
	if level != mode.Met {
		p.alert(ctx, names[level], fmt.Sprintf("writes of the last %s are not in a verified point; the target is %s", age.Round(100*time.Millisecond), rpo),
			"understudy status "+p.vm.Name)
	}
}
