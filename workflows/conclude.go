package workflows

import (
	"fmt"

	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// A failover listens while it works:
//
//	confirm   a person says that the old host is off          a rung of the ladder
//	abandon   a person wants it left alone                    taken back, as long as nothing proves the old VM off
//	commit, rollback                                          ends the wait of one that is held
//	host news the old host is heard again, the target lost    taken back where nothing is wrong any more, or nobody could start it
func (f *failover) listen(ctx workflow.Context) {
	sel := workflow.NewSelector(ctx)
	sel.AddReceive(contract.SigFailoverOrder.Channel(ctx), func(c workflow.ReceiveChannel, _ bool) {
		var o contract.FailoverOrder
		if c.ReceiveAsync(&o) {
			f.obey(ctx, o)
		}
	})
	sel.AddReceive(contract.SigHostNews.Channel(ctx), func(c workflow.ReceiveChannel, _ bool) {
		var n contract.HostNews
		if !c.ReceiveAsync(&n) {
			return
		}
		switch n.Host {
		case f.in.From:
			f.heard = !n.Silent
		case f.in.To:
			f.lost = n.Silent
		}
	})
	for ctx.Err() == nil {
		sel.Select(ctx)
	}
}

func (f *failover) obey(ctx workflow.Context, o contract.FailoverOrder) {
	switch o.Kind {
	case contract.OrderConfirm:
		f.word = &model.Evidence{Kind: model.EvidencePerson, Generation: f.in.Generation, By: o.By, Detail: o.Reason, At: o.At}
		f.wordAt, f.forced = workflow.Now(ctx), f.forced || o.Force
	case contract.OrderAbandon:
		f.abandoned = &o
	case contract.OrderCommit, contract.OrderRollback:
		if f.out.HeldUntil != nil { // what is not held has nothing to decide
			f.decision = &o
		}
	}
}

// hold waits for a person. The VM runs on probation meanwhile, so it depends on the control plane alone: the wait is bounded,
// and ends with a commit, or with a rollback when the new host is lost.
func (f *failover) hold(ctx workflow.Context) (string, error) {
	f.release(ctx, true) // whoever starts after it does not wait for a person
	until := workflow.Now(ctx).Add(contract.HoldLimit)
	f.out.HeldUntil = &until
	f.show(ctx)
	if f.in.Parent != "" && since(ctx, tellHeld) { // nobody waits: it is for people
		contract.SigFailoverHeld.SendExternal(ctx, f.in.Parent, contract.FailoverHeld{WorkflowID: f.id, Until: until})
	}
	_, err := workflow.AwaitWithOptions(ctx, workflow.AwaitOptions{
		Timeout: contract.HoldLimit, TimerOptions: workflow.TimerOptions{Summary: "held until a person decides"},
	}, func() bool { return f.decision != nil })
	f.out.HeldUntil = nil
	switch d := f.decision; {
	case err != nil:
		return "", err
	case d != nil && d.Kind == contract.OrderRollback:
		f.out.TakenBackBy = d.By
		return "", f.refuse(model.Conflict, "%s rolled it back: %s", d.By, d.Reason)
	case d == nil && f.lost:
		return "", f.refuse(model.Unreachable, "%s is not heard and nobody decided: it is rolled back", f.in.To)
	case d == nil:
		f.undo.pointOfNoReturn()
		return fmt.Sprintf("nobody decided within %s: committed", contract.HoldLimit), nil
	default:
		f.undo.pointOfNoReturn()
		return "committed by " + d.By, nil
	}
}

// probe asks the guest: a VM that runs and does not serve is not restored.
func (f *failover) probe(ctx workflow.Context) (string, error) {
	out, err := contract.Probe.Execute(ctx, contract.HostQueue(f.in.To), "does the guest answer?", contract.ProbeIn{Fence: f.fence(), Probes: f.in.Probes})
	if err != nil && ctx.Err() == nil && unclear(err) && !f.mayGoBack() {
		f.unsure = true
		return "started, but nobody could ask whether it serves: " + sentence(err), nil
	}
	return out.Answered, err
}

// fit asks the target whether the point can be started there, before anything is claimed.
func (f *failover) fit(ctx workflow.Context) (string, error) {
	out, err := f.askFit(ctx, f.out.Point.PointRef).Get(ctx)
	detail := ""
	if n := len(out.Notes); n > 0 {
		detail = fmt.Sprintf("%d things differ: %s", n, clip(out.Notes[0]))
	}
	return detail, err
}

func (f *failover) refuse(kind model.Kind, format string, args ...any) error {
	return contract.Refuse(kind, contract.Detail{VM: f.in.VM.Name, Host: f.in.To, Try: "understudy status " + f.in.VM.Name}, format, args...)
}

// mayGoBack: the target is on probation, so that its copy ends by itself, and the old host is there to go on. Then a start whose
// end nobody told is taken back; otherwise the VM probably runs, and nobody else could run it.
func (f *failover) mayGoBack() bool {
	return f.mode() == model.ModeProbation && (f.heard || !f.in.FromSilent)
}

// --- the protection's side ---------------------------------------------------------------------------------------------------

// tell passes news of a host on to the failover that runs. Nobody waits: it may be over.
func (p *protection) tell(ctx workflow.Context, h model.HostID, silent bool) {
	if p.failingOver() {
		contract.SigHostNews.SendExternal(ctx, p.st.Failover.WorkflowID, contract.HostNews{Host: h, Silent: silent})
	}
}

// onHeld lets status say what a person can do.
func (p *protection) onHeld(ctx workflow.Context, in contract.FailoverHeld) {
	if p.failingOver() && p.st.Failover.WorkflowID == in.WorkflowID {
		p.st.Failover.HeldUntil = &in.Until
		p.refresh(ctx)
	}
}

func (p *protection) validConclude(in contract.FailoverOrder) error {
	if err := p.mustBeReady(); err != nil {
		return err
	}
	name, try := p.vm.Name, "understudy status "+p.vm.Name
	switch f := p.st.Failover; {
	case in.Kind == contract.OrderAbandon && !p.failingOver() && (p.st.Failed != "" || p.st.Trigger != nil):
		return nil
	case !p.failingOver():
		return p.refuse(model.Conflict, try, "no failover of %s is running", name)
	case in.Kind == contract.OrderConfirm, in.Kind == contract.OrderAbandon:
		return nil
	case in.Kind != contract.OrderCommit && in.Kind != contract.OrderRollback:
		return p.refuse(model.InvalidArgument, "", "%q is nothing that a failover can be told", in.Kind)
	case !f.Hold:
		return p.refuse(model.Conflict, try, "the failover of %s is not held: it ends by itself", name)
	}
	return nil
}

// conclude passes a person's word on, and answers when the failover has ended.
func (p *protection) conclude(ctx workflow.Context, in contract.FailoverOrder) (contract.FailoverBrief, error) {
	if !p.failingOver() {
		p.leaveAlone(ctx, in.By, "a failover was abandoned")
		if p.st.Failover == nil {
			return contract.FailoverBrief{}, nil
		}
		return *p.st.Failover, nil
	}
	id := p.st.Failover.WorkflowID
	in.At = workflow.Now(ctx)
	if err := contract.SigFailoverOrder.SendExternal(ctx, id, in).Get(ctx, nil); err != nil {
		return contract.FailoverBrief{}, p.refuse(model.Conflict, "understudy status "+p.vm.Name, "the failover of %s could not be told: %s", p.vm.Name, sentence(err))
	}
	err := workflow.Await(ctx, func() bool { return !p.failingOver() })
	return *p.st.Failover, err
}

// leaveAlone stops what would start the next failover, until a person resumes.
func (p *protection) leaveAlone(ctx workflow.Context, by, why string) {
	p.st.Trigger = nil
	p.stopFailing()
	p.st.Paused = &contract.PauseInfo{By: by, Reason: why, At: workflow.Now(ctx)}
	p.changed(ctx)
}
