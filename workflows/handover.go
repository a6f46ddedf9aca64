package workflows

import (
	"fmt"
	"time"

	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/decide/cadence"
	"understudy/internal/model"
)

const (
	againFirst = 30 * time.Second // until a failover that came to nothing is tried again
	againLast  = 5 * time.Minute
	idleWait   = 5 * time.Minute

	takeUpTries = 3
	takeUpPause = 2 * time.Second
)

// startFailover hands the VM to the failover's own workflow, which outlives a continue-as-new and even the end of this one.
func (p *protection) startFailover(ctx workflow.Context) {
	if p.st.Trigger.Planned != nil && !p.drained(ctx) {
		return
	}
	st, t := p.st, *p.st.Trigger
	g := max(st.Claimed, st.Generation) + 1
	st.Claimed = g
	st.Failed, st.RetryAt = "", nil
	in := contract.FailoverIn{
		VM: p.vm, Generation: g, From: st.Primary, To: st.Standby, Reason: t.Reason, RequestBy: t.By, Seq: t.Seq,
		Expect: st.Generation, FromSilent: t.Silent || p.silent(st.Primary), Parent: p.id(),
	}
	if t.Confirmed {
		in.Confirmed = &model.Evidence{Kind: model.EvidencePerson, Generation: g, By: t.By, Detail: t.Reason, At: t.At}
	}
	if t.Planned == nil { // otherwise one is made that does not exist yet
		in.Newest = st.Committed
	}
	in.Salvage = p.maySalvage(t)
	in.GuardLevel, in.Force = st.Policy.GuardLevel, t.Force
	in.Action, in.Networks, in.Probes = st.Policy.Isolation, st.Policy.Networks, st.Policy.Probes
	in.EncryptionAtRest = st.Policy.EncryptionAtRest
	in.ByPerson, in.Hold = t.Request, t.Hold
	in.Silence = t.Silent && !t.Request && st.Off == ""
	if t.Planned == nil {
		in.Place = p.place(in.FromSilent)
	}
	planned := p.plan(&in, t, workflow.Now(ctx), p.compression())
	id := contract.FailoverID(p.vm.UUID, g)
	st.Failover = &contract.FailoverBrief{
		WorkflowID: id, Generation: g, From: in.From, To: in.To, Reason: t.Reason, StartedAt: workflow.Now(ctx), Planned: planned, Hold: t.Hold,
	}
	p.refresh(ctx)
	child := workflow.ExecuteChildWorkflow(workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID: id, TaskQueue: contract.ControlQueue, ParentClosePolicy: enums.PARENT_CLOSE_POLICY_ABANDON,
		WorkflowIDReusePolicy: enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY,
		StaticSummary:         fmt.Sprintf("failover of %s to %s", p.vm.Name, in.To),
	}), contract.FailoverVMName, in)
	if err := child.GetChildWorkflowExecution().Get(ctx, nil); err != nil {
		p.finish(ctx, contract.ChildFinishedIn{WorkflowID: id, Out: contract.FailoverOut{
			Outcome: contract.OutcomeRolledBack, Generation: g, Error: "the failover was not started: " + sentence(err),
		}})
		return
	}
	workflow.Go(ctx, func(ctx workflow.Context) { p.followChild(ctx, id, g, child) })
}

// followChild is for a failover that ends without its signal (terminated by hand, for example).
func (p *protection) followChild(ctx workflow.Context, id string, g model.Generation, child workflow.ChildWorkflowFuture) {
	var out contract.FailoverOut
	if err := child.Get(ctx, &out); err != nil {
		if ctx.Err() != nil {
			return // we were cancelled, not the failover
		}
		out = contract.FailoverOut{
			Outcome: contract.OutcomeFailed, Generation: g, Error: "the failover ended without a result: " + sentence(err),
			Try: "understudy doctor, then understudy failover " + p.vm.Name,
		}
	}
	p.finish(ctx, contract.ChildFinishedIn{WorkflowID: id, Out: out})
}

// awaitFailover: nothing else is done meanwhile; exposure goes on growing by itself.
func (p *protection) awaitFailover(ctx workflow.Context) {
	_ = workflow.Await(ctx, func() bool { return p.wake || !p.failingOver() })
}

func (p *protection) onChildFinished(ctx workflow.Context, in contract.ChildFinishedIn) {
	p.finish(ctx, in)
}

// finish takes the result of the running failover, once.
func (p *protection) finish(ctx workflow.Context, in contract.ChildFinishedIn) {
	f := p.st.Failover
	if !p.failingOver() || f.WorkflowID != in.WorkflowID {
		return
	}
	out, now := in.Out, workflow.Now(ctx)
	f.Outcome, f.EndedAt, f.Error, f.Result, f.HeldUntil = out.Outcome, &now, clip(out.Error), &out, nil
	p.st.Claimed = max(p.st.Claimed, out.Generation, out.HandedBackGeneration)
	if r := out.Record; r != nil {
		p.st.Claimed = max(p.st.Claimed, r.Claimed)
		p.st.Generation = max(p.st.Generation, r.Permitted)
	}
	if out.Outcome == contract.OutcomeDone {
		p.swapRoles(ctx, out)
	} else {
		p.cameToNothing(ctx, out)
	}
	p.wake = true
	p.refresh(ctx)
}

// swapRoles: the VM runs on the former standby, from a point; nothing of what it writes now is anywhere else.
func (p *protection) swapRoles(ctx workflow.Context, out contract.FailoverOut) {
	st, now := p.st, workflow.Now(ctx)
	st.Primary, st.Standby = st.Failover.To, st.Failover.From
	st.Generation, st.Disks = out.Generation, out.Disks
	st.NextSeq = max(st.NextSeq, out.Point.Seq+1)
	st.Committed, st.Reseed, st.ForceResync, st.SkipFreeze = model.PointRef{}, "", "", false
	st.InFlight, st.Observed, p.nextOrigin = nil, nil, nil
	st.Unreplicated, st.Assumed = &now, true
	st.Points, p.learned, p.gears, st.Gear = 0, learned{}, cadence.Gearbox{}, "" // another store, and the other direction of the link
	st.Trigger, st.Off, st.TakeUp = nil, "", false
	st.Failures, st.LastError = 0, ""
	st.StandbyReady, st.StandbySilentAt = false, nil
	p.moved(ctx, out)
	p.stopFailing()
	p.clear(contract.AlertVMDown, contract.AlertIOError, contract.AlertVMPaused, contract.AlertStandbyFull, contract.AlertFreezeFailed, contract.AlertCutOff, contract.AlertGuest)
}

// cameToNothing: nothing was started. Where the VM was not touched, protection goes on; where it is down or its host is
// silent, people are asked, and the system tries again after a while: a fence device may work again.
func (p *protection) cameToNothing(ctx workflow.Context, out contract.FailoverOut) {
	st := p.st
	if out.HandedBackTo == st.Primary && out.HandedBackGeneration > 0 {
		st.Generation = out.HandedBackGeneration
		st.TakeUp = true
		p.keepSalvaged(out)
	}
	switch {
	case out.HeardAgain && out.Outcome == contract.OutcomeRolledBack:
		st.Trigger, p.look = nil, true
		st.Totals.FalseAlarms++
		return
	case out.TakenBackBy != "":
		p.takenBack(ctx, out)
		return
	}
	why := "the failover to " + string(st.Failover.To) + " came to nothing: " + clip(out.Error)
	request := st.Trigger != nil && st.Trigger.Request
	stopped := out.Evidence != nil // the VM was stopped, or its host was switched off, for this failover
	if stopped && st.Off == "" {
		st.Off = "it was stopped for a failover"
	}
	alert := contract.AlertFailoverFailed
	if out.ErrorType == string(model.FenceUnconfirmed) {
		alert = contract.AlertFenceUnconfirmed
	}
	if st.Trigger != nil && (request || st.Trigger.Silent) {
		st.Trigger = nil // a silent host is judged anew
	}
	p.alert(ctx, alert, why, out.Try)
	if !stopped && st.Off == "" && !p.silent(st.Primary) && out.Outcome != contract.OutcomeFailed {
		p.look = true
		return
	}
	if stopped && st.Trigger == nil && !p.silent(st.Primary) {
		st.Trigger = &contract.FailoverTrigger{Reason: "the VM is down after a failover that came to nothing", By: "understudy", At: workflow.Now(ctx), Host: st.Primary}
	}
	st.Failed, p.look = why, true
	st.FailoverTries++
	at := workflow.Now(ctx).Add(min(againFirst<<min(st.FailoverTries-1, 10), againLast))
	st.RetryAt = &at
}

// takenBack: a person wanted the VM to stay where it was. It goes on there if its host is heard and the takeover is what had
// stopped it; whatever else, nothing moves by itself until a person resumes.
func (p *protection) takenBack(ctx workflow.Context, out contract.FailoverOut) {
	st := p.st
	wasDown := st.Off != ""
	if out.Evidence != nil && !wasDown {
		st.Off = "it was stopped for a failover"
	}
	st.Trigger, p.look = nil, true
	if p.silent(st.Primary) || wasDown || out.Outcome == contract.OutcomeFailed {
		p.leaveAlone(ctx, out.TakenBackBy, "a failover was taken back: "+clip(out.Error))
	}
}

// takeUp lets the primary go on after a takeover was rolled back. A surrender may have stopped its VM, also one whose answer
// the takeover no longer waited for; nothing was written since, so starting it again loses nothing.
func (p *protection) takeUp(ctx workflow.Context) {
	st := p.st
	out, err := contract.TakeUp.Execute(ctx, p.queue(st.Primary), "go on under generation "+fmt.Sprint(st.Generation), contract.TakeUpIn{Fence: p.fence(), Mode: model.ModeSole, Grantors: p.control(), Action: st.Policy.Isolation})
	switch {
	case err == nil:
		st.TakeUp, p.takeUps = false, 0
	case p.takeUps < takeUpTries && !final(err):
		p.takeUps++
		p.sleep(ctx, takeUpPause, "try again to go on where it was")
		return
	default:
		st.TakeUp, p.takeUps = false, 0
		p.alert(ctx, contract.AlertFailoverFailed, string(st.Primary)+" was to go on after the failover came to nothing: "+clip(sentence(err)), advice(err))
	}
	if out.Started {
		st.Off, st.Trigger = "", nil
		p.stopFailing()
	}
	p.look = true
}

// failOverAgain lifts the stop: a trigger that is left fires, unless the VM runs again, and a silent host is judged anew.
func (p *protection) failOverAgain(ctx workflow.Context) {
	if !p.silent(p.st.Primary) {
		if err := p.peek(ctx); err != nil {
			p.log.Warn("the VM could not be looked at before the next failover", "error", err)
		}
	}
	p.st.Failed, p.st.RetryAt = "", nil
	p.wake = true
	p.suspect(ctx)
}
