package workflows

import (
	"errors"

	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// handleUpdates registers what people ask for. Validators check arguments and state only: a rejected update leaves nothing
// in the history. No handler holds a lock; the loop is the only one who acts.
func (p *protection) handleUpdates(ctx workflow.Context) error {
	return errors.Join( // registration only: these errors never carry a type
		contract.UpdAwaitReady.Handle(ctx, p.awaitReady, nil),
		contract.UpdPause.Handle(ctx, p.pause, func(contract.PauseIn) error { return p.mustBeReady() }),
		contract.UpdResume.Handle(ctx, p.resume, func(contract.ResumeIn) error { return p.mustBeReady() }),
		contract.UpdSetPolicy.Handle(ctx, p.setPolicy, p.validPolicy),
		contract.UpdSetStart.Handle(ctx, p.setStart, p.validStart),
		contract.UpdReplicateNow.Handle(ctx, p.replicateNow, p.validReplicateNow),
		contract.UpdFailover.Handle(ctx, p.requestFailover, p.validFailover),
		contract.UpdUnprotect.Handle(ctx, p.requestUnprotect, p.validUnprotect),
		contract.UpdSwitchover.Handle(ctx, p.requestSwitchover, p.validSwitchover),
		contract.UpdConclude.Handle(ctx, p.conclude, p.validConclude),
		contract.UpdTestFailover.Handle(ctx, p.requestTest, p.validTest),
	)
}

func (p *protection) awaitReady(ctx workflow.Context, _ contract.None) (contract.DescribeOut, error) {
	err := workflow.Await(ctx, func() bool { return p.st.Accepted || p.setupErr != nil })
	if err == nil {
		err = p.setupErr
	}
	return p.describe(), err
}

func (p *protection) mustBeReady() error {
	switch {
	case !p.st.Accepted:
		return p.refuse(model.Conflict, "understudy status "+p.vm.Name, "the protection of %s is still being set up", p.vm.Name)
	case p.unprotect != nil:
		return p.refuse(model.Conflict, "", "the protection of %s is being removed", p.vm.Name)
	}
	return nil
}

func (p *protection) pause(ctx workflow.Context, in contract.PauseIn) (contract.DescribeOut, error) {
	p.st.Paused = &contract.PauseInfo{By: in.By, Reason: in.Reason, At: workflow.Now(ctx)}
	p.changed(ctx)
	return p.describe(), nil
}

// resume ends a pause, and says that a person has dealt with what made the protection stop.
func (p *protection) resume(ctx workflow.Context, _ contract.ResumeIn) (contract.DescribeOut, error) {
	p.st.Paused, p.st.RetryAt = nil, nil
	p.stopFailing()
	p.clear(contract.AlertGuest)
	p.changed(ctx)
	return p.describe(), nil
}

// changed wakes the loop and shows the new phase at once, for whoever reads the answer.
func (p *protection) changed(ctx workflow.Context) {
	p.wake, p.look = true, true
	p.refresh(ctx)
}

func (p *protection) validPolicy(in contract.SetPolicyIn) error {
	if err := in.Policy.Validate(); err != nil {
		return contract.RefuseFailure(err)
	}
	return p.mustBeReady()
}

func (p *protection) setPolicy(ctx workflow.Context, in contract.SetPolicyIn) (contract.DescribeOut, error) {
	if err := p.mayKeep(ctx, in.Policy); err != nil {
		return contract.DescribeOut{}, err
	}
	in.Policy.Version = p.st.Policy.Version + 1
	p.st.Policy = in.Policy
	if in.Policy.EncryptionAtRest == "" {
		p.clear(contract.AlertNotEncrypted)
	}
	p.st.Violating = false
	p.changed(ctx)
	return p.describe(), nil
}

func (p *protection) validReplicateNow(contract.ReplicateNowIn) error {
	if err := p.mustBeReady(); err != nil {
		return err
	}
	return p.cannotCycle()
}

// cannotCycle is why no cycle can be run for a person now.
func (p *protection) cannotCycle() error {
	name := p.vm.Name
	switch {
	case p.failingOver(), p.st.Trigger != nil && p.blocked() == "":
		return p.refuse(model.Conflict, "understudy status "+name, "a failover of %s is running", name)
	case p.unprotect != nil:
		return p.refuse(model.Conflict, "", "the protection of %s is being removed", name)
	case p.st.Paused != nil:
		return p.refuse(model.Conflict, "understudy resume "+name, "the protection of %s is paused by %s", name, p.st.Paused.By)
	case p.st.Failed != "":
		return p.refuse(model.Conflict, "understudy status "+name, "the protection of %s needs a person: %s", name, p.st.Failed)
	case p.st.Off != "":
		return p.refuse(model.NotRunning, "virsh start "+name, "%s cannot be captured: the VM is off (%s)", name, p.st.Off)
	case !p.st.StandbyReady:
		return p.refuse(model.Conflict, "understudy status "+name, "%s has no standby: %s is not ready", name, p.st.Standby)
	}
	return nil
}

// replicateNow waits for a cycle that began after the request: one under way may have captured too early.
func (p *protection) replicateNow(ctx workflow.Context, in contract.ReplicateNowIn) (contract.ReplicateNowOut, error) {
	if in.Resync {
		p.resync = "asked for by " + in.By
	}
	p.wake = true
	mine := p.started + 1
	p.wanted = max(p.wanted, mine)
	err := workflow.Await(ctx, func() bool { return p.ended >= mine || p.cannotCycle() != nil })
	switch {
	case err != nil:
		return contract.ReplicateNowOut{}, err
	case p.ended < mine:
		return contract.ReplicateNowOut{}, p.cannotCycle()
	case p.lastEnd != nil:
		return contract.ReplicateNowOut{}, surface(p.lastEnd, p.vm.Name, p.st.Primary)
	}
	return contract.ReplicateNowOut{Point: p.st.Recent[len(p.st.Recent)-1]}, nil
}

func (p *protection) validFailover(in contract.FailoverRequestIn) error {
	if err := p.mustBeReady(); err != nil {
		return err
	}
	if in.Hold && p.failingOver() && !p.st.Failover.Hold {
		return p.refuse(model.Conflict, "understudy status "+p.vm.Name, "a failover of %s runs already, and is not held", p.vm.Name)
	}
	if p.st.Committed.IsZero() && !p.failingOver() {
		return p.refuse(model.Refused, "understudy points "+p.vm.Name, "there is no verified point of %s to start from", p.vm.Name)
	}
	return nil
}

// requestFailover joins a failover that runs already; otherwise it waits until its own has been started.
func (p *protection) requestFailover(ctx workflow.Context, in contract.FailoverRequestIn) (contract.FailoverRequestOut, error) {
	if !p.failingOver() {
		before := p.st.Failover
		p.fire(ctx, contract.FailoverTrigger{
			Reason: in.Reason, By: in.By, At: workflow.Now(ctx), Host: p.st.Primary, Silent: p.silent(p.st.Primary),
			Request: true, Confirmed: in.ConfirmPrimaryDown, Force: in.Force, Seq: in.Seq, Hold: in.Hold,
		})
		if err := workflow.Await(ctx, func() bool { return p.st.Failover != before }); err != nil {
			return contract.FailoverRequestOut{}, err
		}
	} else if in.ConfirmPrimaryDown { // it may be the rung that the running one waits for
		order := contract.FailoverOrder{Kind: contract.OrderConfirm, By: in.By, Reason: in.Reason, Force: in.Force, At: workflow.Now(ctx)}
		if err := contract.SigFailoverOrder.SendExternal(ctx, p.st.Failover.WorkflowID, order).Get(ctx, nil); err != nil {
			p.log.Warn("the running failover did not hear a person's word", "error", err)
		}
	}
	f := p.st.Failover
	return contract.FailoverRequestOut{WorkflowID: f.WorkflowID, Generation: f.Generation}, nil
}

func (p *protection) validUnprotect(contract.UnprotectIn) error {
	if p.failingOver() || p.st.Trigger != nil && p.blocked() == "" {
		return p.refuse(model.Conflict, "understudy status "+p.vm.Name, "a failover of %s is running", p.vm.Name)
	}
	return p.mustBeReady()
}

func (p *protection) requestUnprotect(ctx workflow.Context, in contract.UnprotectIn) (contract.UnprotectOut, error) {
	p.unprotect = &in
	p.wake = true
	p.interrupt()
	if err := workflow.Await(ctx, func() bool { return p.retired != nil }); err != nil {
		return contract.UnprotectOut{}, err
	}
	return *p.retired, nil
}
