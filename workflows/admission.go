package workflows

import (
	"time"

	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/model"
)

const (
	coordinatorLimit = 5 * time.Second // for the first word of the recovery; then the VM is started without it
	admissionSlack   = 2 * time.Minute // beyond the rule's own wait, for a slot
)

// place is a VM's place among those that start together. A VM that fails alone, with nobody to wait for, has none: asking
// would only cost time.
func (p *protection) place(silent bool) *contract.StartPlace {
	rule := p.st.Start
	if !silent && (rule == nil || len(rule.After) == 0) {
		return nil
	}
	out := &contract.StartPlace{Tier: p.st.Policy.Tier}
	if rule != nil {
		out.Rule = *rule
	}
	return out
}

// admission waits for the VM's turn. It is the last thing before the permit: fencing, seals and evidence of all VMs of a dead host
// go on beside each other. A recovery that is lost, or never answers, holds nobody up for long.
func (f *failover) admission(ctx workflow.Context) (string, error) {
	began := workflow.Now(ctx)
	answers := contract.SigStartAnswer.Channel(ctx)
	if !f.ask(ctx) {
		return "the recovery plan is not asked: its workflow cannot be reached", nil
	}
	f.admitted = true
	limit, heard, why := coordinatorLimit, false, "nobody answered"
	for {
		var a contract.StartAnswer
		wait := limit - workflow.Now(ctx).Sub(began)
		ok := false
		if wait > 0 {
			ok, _ = workflow.AwaitWithOptions(ctx, workflow.AwaitOptions{
				Timeout: wait, TimerOptions: workflow.TimerOptions{Summary: "its turn among those that start together"},
			}, func() bool { return answers.ReceiveAsync(&a) })
		}
		switch {
		case ctx.Err() != nil:
			return "", ctx.Err()
		case !ok:
			return "started without waiting any longer: " + why, nil
		case a.Granted && why == "nobody answered":
			return "at once", nil
		case a.Granted:
			return "it waited: it " + why, nil
		}
		why = a.Why
		if !heard {
			heard = true
			limit = f.waitLimit()
		}
	}
}

func (f *failover) waitLimit() time.Duration {
	wait := f.in.Place.Rule.Wait
	if wait <= 0 || len(f.in.Place.Rule.After) == 0 {
		wait = model.DefaultStartWait
	}
	return wait + admissionSlack
}

// ask begins the recovery when there is none, and tells it that this VM could start. False when it cannot be reached.
func (f *failover) ask(ctx workflow.Context) bool {
	ask := contract.StartAsk{
		VM: f.in.VM, Target: f.in.To, Tier: f.in.Place.Tier, Rule: f.in.Place.Rule, At: workflow.Now(ctx), ReplyTo: f.id,
	}
	for range 2 { // it may just have ended
		child := workflow.ExecuteChildWorkflow(workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
			WorkflowID: contract.RecoveryID, TaskQueue: contract.ControlQueue, ParentClosePolicy: enums.PARENT_CLOSE_POLICY_ABANDON,
			WorkflowIDReusePolicy: enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE, StaticSummary: "order of the starts after a host died",
		}), contract.RecoveryName, contract.RecoveryIn{})
		_ = child.GetChildWorkflowExecution().Get(ctx, nil) // it runs already, most of the time
		if contract.SigStartAsk.SendExternal(ctx, contract.RecoveryID, ask).Get(ctx, nil) == nil {
			return true
		}
	}
	return false
}

// release gives the slot back, once; also when the failover was cancelled.
func (f *failover) release(ctx workflow.Context, runs bool) {
	if !f.admitted {
		return
	}
	f.admitted = false
	free, cancel := workflow.NewDisconnectedContext(ctx)
	defer cancel()
	end := contract.StartEnded{VM: f.in.VM, OK: runs, At: workflow.Now(ctx)}
	if err := contract.SigStartEnded.SendExternal(free, contract.RecoveryID, end).Get(free, nil); err != nil {
		f.log.Warn("the recovery was not told that the start is over", "error", err)
	}
}

func (p *protection) setStart(ctx workflow.Context, in contract.SetStartIn) (contract.DescribeOut, error) {
	p.st.Start = in.Rule
	p.changed(ctx)
	return p.describe(), nil
}

func (p *protection) validStart(in contract.SetStartIn) error {
	if r := in.Rule; r != nil && (r.Wait < 0 || r.Wait > model.MaxStartWait || r.Delay < 0 || r.Parallel < 0 || r.Parallel > model.MaxStartParallel) {
		return p.refuse(model.InvalidArgument, "understudy plan check FILE", "the place in the recovery plan is out of bounds")
	}
	return p.mustBeReady()
}
