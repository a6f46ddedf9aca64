package workflows

import (
	"errors"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/decide/liveness"
	"understudy/internal/decide/mode"
	"understudy/internal/model"
)

const judgeAgain = 5 * time.Second

// vmGone: the primary's own agent says that the VM crashed or vanished.
func (p *protection) vmGone(ctx workflow.Context, in contract.VMEventIn) {
	what := string(in.Event.Kind)
	if in.Event.Detail != "" {
		what += ": " + in.Event.Detail
	}
	p.st.Off = "it " + what
	j := liveness.Judge(liveness.Evidence{VMGone: what})
	p.fire(ctx, contract.FailoverTrigger{Reason: j.Reason, By: "agent", At: workflow.Now(ctx), Host: in.Host})
}

// report: external monitoring says so.
func (p *protection) report(ctx workflow.Context, in contract.CrashIn) {
	j := liveness.Judge(liveness.Evidence{Reported: in.Source + ": " + in.Reason, HeartbeatLost: p.silent(p.st.Primary)})
	p.fire(ctx, contract.FailoverTrigger{Reason: j.Reason, By: in.Source, At: workflow.Now(ctx), Host: p.st.Primary, Silent: j.Host})
}

// fire records why a failover is wanted. A person's request replaces what the system wanted; otherwise the first reason
// stands. The running stage is interrupted at once, unless the system may not act.
func (p *protection) fire(ctx workflow.Context, t contract.FailoverTrigger) {
	if p.failingOver() || !p.st.Accepted || p.unprotect != nil {
		return
	}
	if old := p.st.Trigger; old == nil || t.Request || old.Planned != nil { // a VM that is down is moved no more
		p.st.Trigger = &t
	} else if t.Silent {
		old.Silent = true
	}
	p.wake = true
	if why := p.blocked(); why != "" && !p.mayRestart(ctx) {
		p.alert(ctx, contract.AlertVMDown, t.Reason+". No failover by itself: "+why, "understudy failover "+p.vm.Name)
		return
	}
	p.interrupt()
}

// blocked is why the trigger does not lead to a failover now; empty when it does.
func (p *protection) blocked() string {
	st := p.st
	switch {
	case st.Trigger != nil && st.Trigger.Request:
		return "" // a person decided; what the request needs was checked
	case st.Paused != nil:
		return "the protection is paused by " + st.Paused.By
	case p.silent(st.Standby):
		return string(st.Standby) + " is not heard either"
	}
	return mode.MayFailOver(st.Policy.Failover, !st.Committed.IsZero(), st.Failed)
}

// suspect starts the judge when the primary's host is silent.
func (p *protection) suspect(ctx workflow.Context) {
	if p.judging || !p.mayJudge() {
		return
	}
	p.judging = true
	workflow.Go(ctx, p.judge)
}

func (p *protection) mayJudge() bool {
	st := p.st
	return st.Accepted && p.silent(st.Primary) && st.Trigger == nil && st.Failed == "" && !p.failingOver() && p.unprotect == nil
}

// judge asks a second witness whether the silent primary is dead, and again for as long as nobody can tell.
func (p *protection) judge(ctx workflow.Context) {
	defer func() { p.judging = false }()
	for first := true; p.mayJudge() && ctx.Err() == nil; first = false {
		primary := p.st.Primary
		j := p.weigh(ctx, primary)
		if !p.mayJudge() || p.st.Primary != primary {
			return
		}
		switch j.Verdict {
		case liveness.Dead:
			p.fire(ctx, contract.FailoverTrigger{Reason: j.Reason, By: "hostwatch", At: workflow.Now(ctx), Host: primary, Silent: j.Host})
			return
		case liveness.Alive:
			if first {
				p.st.Totals.FalseAlarms++
			}
			p.alert(ctx, contract.AlertCutOff, j.Reason, "understudy hosts")
		case liveness.Unknown:
			p.alert(ctx, contract.AlertCutOff, j.Reason, "understudy hosts")
		}
		_, _ = workflow.AwaitWithOptions(ctx, workflow.AwaitOptions{
			Timeout: judgeAgain, TimerOptions: workflow.TimerOptions{Summary: "ask again whether " + string(primary) + " lives"},
		}, func() bool { return !p.mayJudge() })
	}
}

func (p *protection) weigh(ctx workflow.Context, primary model.HostID) liveness.Judgement {
	in := contract.WitnessIn{Host: primary, LinkAddress: p.st.Links[string(primary)]}
	out, err := contract.Witness.Execute(ctx, p.queue(p.st.Standby), "does it reach "+string(primary)+"?", in)
	return liveness.Judge(liveness.Evidence{
		HeartbeatLost: true, WitnessAsked: err == nil, WitnessAlive: out.Alive, WitnessDetail: out.Detail, WitnessTook: out.Took,
		Load: p.st.LastLoad,
	})
}

// heard ends the silence of a host, and what was concluded from it.
func (p *protection) heard(h model.HostID) {
	if !p.silent(h) {
		return
	}
	delete(p.st.HostSilent, string(h))
	p.clear(silentAlert(h), contract.AlertCutOff)
	p.wake, p.look = true, true
	p.st.RetryAt = nil
	if h == p.st.Primary {
		if t := p.st.Trigger; t != nil && t.Silent && !t.Request {
			p.st.Trigger = nil // it lives; if its VM does not, its agent tells
			p.clear(contract.AlertVMDown)
		}
		if p.st.FailoverTries > 0 {
			p.stopFailing()
		}
	} else {
		p.st.StandbySilentAt = nil
	}
	if h != p.st.Primary && p.st.FailoverTries > 0 {
		p.st.Failed = "" // a new witness, or a target that was missing: worth another try
	}
}

// stopFailing forgets what stopped the protection: a host was heard, the VM runs again, or a person has dealt with it.
func (p *protection) stopFailing() {
	p.st.Failed, p.st.RetryAt, p.st.FailoverTries = "", nil, 0
	p.clear(contract.AlertFenceUnconfirmed, contract.AlertFailoverFailed, contract.AlertStaleGeneration, contract.AlertNeedsAttention)
}

// notThere says that the workflow which was signalled does not exist.
func notThere(err error) bool {
	var unknown *temporal.UnknownExternalWorkflowExecutionError
	return errors.As(err, &unknown)
}
