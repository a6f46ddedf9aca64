package workflows

import (
	"fmt"
	"slices"
	"time"

	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/decide/election"
	"understudy/internal/model"
)

const (
	testStays  = 5 * time.Second  // a guest that cannot be asked must stay up so long
	testLimit  = 30 * time.Minute // then a test that was not heard of again is forgotten
	testLater  = 10 * time.Minute // until one that was postponed is tried again
	bootPeriod = time.Minute      // the shortest distance of two scheduled ones
)

// TestFailoverVM boots a point on the standby in isolation and takes it away again. Nothing of the VM is touched: the copy has
// another name and UUID, no network, and disks of its own on top of the point. The clean-up is registered before the boot, and
// what a crash of the agent leaves is swept when it starts.
func TestFailoverVM(ctx workflow.Context, in contract.TestFailoverIn) (contract.TestResult, error) {
	t := &testRun{in: in, out: contract.TestResult{
		WorkflowID: workflow.GetInfo(ctx).WorkflowExecution.ID, Number: in.Number, Host: in.Host, By: in.By, Scheduled: in.Scheduled,
		StartedAt: workflow.Now(ctx),
	}}
	err := t.boot(ctx)
	t.out.Passed = err == nil
	if err != nil {
		t.out.Error, t.out.ErrorType = clip(sentence(surface(err, in.VM.Name, in.Host))), string(kindOf(err))
		t.out.Postponed = in.Scheduled && kindOf(err) == model.Conflict
	}
	_, stuck := t.undo.unwind(ctx)
	t.out.CleanedUp = len(stuck) == 0
	for _, s := range stuck {
		workflow.GetLogger(ctx).Error("a test failover was not cleaned up", "vm", in.VM.Name, "host", in.Host, "why", s)
	}
	t.out.EndedAt = workflow.Now(ctx)
	t.tell(ctx)
	return t.out, nil
}

type testRun struct {
	in   contract.TestFailoverIn
	out  contract.TestResult
	undo saga
}

func (t *testRun) boot(ctx workflow.Context) error {
	queue := contract.HostQueue(t.in.Host)
	list, err := contract.Points.Execute(ctx, queue, "points to boot", contract.PointsIn{VM: t.in.VM})
	if err != nil {
		return err
	}
	candidates := make([]election.Candidate, 0, len(list.Points))
	for _, v := range list.Points {
		candidates = append(candidates, election.Candidate{PointRef: v.PointRef, TakenAt: v.TakenAt, VerifiedAt: v.VerifiedAt})
	}
	best, err := election.Choose(candidates, t.in.Seq, 0)
	if err != nil {
		return contract.RefuseFailure(err)
	}
	t.out.Point = best.PointRef
	in := contract.TestBootIn{
		Fence: contract.Fence{VM: t.in.VM, Generation: t.in.Generation}, Point: best.PointRef, Number: t.in.Number, Probes: t.in.Probes,
		For: testStays, Spare: t.in.Scheduled,
	}
	t.undo.add("take the copy away", func(ctx workflow.Context) error {
		_, err := contract.TestClean.Execute(ctx, queue, "take the copy away", in)
		return err
	})
	booted, err := contract.TestBoot.Execute(ctx, queue, fmt.Sprintf("boot point %d in isolation", best.Seq), in)
	if err != nil {
		return err
	}
	runs := workflow.Now(ctx).Sub(t.out.StartedAt)
	answer, err := contract.TestProbe.Execute(ctx, queue, "does it answer?", in)
	if err != nil {
		return err
	}
	// Both instants are of the host's clock; only their distance counts.
	t.out.RTO = runs + max(answer.At.Sub(booted.At), 0)
	t.out.Answered, t.out.Detail = answer.Answered, clip(answer.Detail)
	return nil
}

func (t *testRun) tell(ctx workflow.Context) {
	if t.in.Parent == "" {
		return
	}
	free, cancel := workflow.NewDisconnectedContext(ctx)
	defer cancel()
	if err := contract.SigTestFinished.SendExternal(free, t.in.Parent, t.out).Get(free, nil); err != nil {
		workflow.GetLogger(ctx).Error("the protection could not be told of a test failover", "parent", t.in.Parent, "error", err)
	}
}

// --- the protection's side ---------------------------------------------------------------------------------------------------

// testing says that a test failover of this VM runs on a host.
func (p *protection) testing(h model.HostID) bool {
	return p.st.Testing != nil && p.st.Testing.Host == h
}

func (p *protection) validTest(contract.TestRequestIn) error {
	if err := p.mustBeReady(); err != nil {
		return err
	}
	st, name := p.st, p.vm.Name
	switch {
	case p.failingOver() || st.Trigger != nil && p.blocked() == "":
		return p.refuse(model.Conflict, "understudy status "+name, "a failover of %s is running", name)
	case st.Testing != nil:
		return p.refuse(model.Conflict, "understudy status "+name, "a test failover of %s is running", name)
	case st.Committed.IsZero() || !st.StandbyReady:
		return p.refuse(model.Conflict, "understudy status "+name, "%s has no verified point on %s yet", name, st.Standby)
	case p.silent(st.Standby):
		return p.refuse(model.Conflict, "understudy hosts", "%s is not heard", st.Standby)
	}
	return nil
}

func (p *protection) requestTest(ctx workflow.Context, in contract.TestRequestIn) (contract.TestRequestOut, error) {
	if err := p.startTest(ctx, in, false); err != nil {
		return contract.TestRequestOut{}, surface(err, p.vm.Name, p.st.Standby)
	}
	return contract.TestRequestOut{WorkflowID: contract.TestFailoverID(p.vm.UUID), Number: p.st.NextTest}, nil
}

// startTest starts the test's own workflow, which outlives a continue-as-new. Replication goes on beside it.
func (p *protection) startTest(ctx workflow.Context, in contract.TestRequestIn, scheduled bool) error {
	st := p.st
	st.NextTest++
	test := contract.TestFailoverIn{
		VM: p.vm, Host: st.Standby, Generation: st.Generation, Number: st.NextTest, Seq: in.Seq, Probes: st.Policy.Probes, By: in.By,
		Scheduled: scheduled, At: workflow.Now(ctx), Parent: p.id(),
	}
	st.Testing = &test
	id := contract.TestFailoverID(p.vm.UUID)
	child := workflow.ExecuteChildWorkflow(workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID: id, TaskQueue: contract.ControlQueue, ParentClosePolicy: enums.PARENT_CLOSE_POLICY_ABANDON,
		WorkflowIDReusePolicy: enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		StaticSummary:         fmt.Sprintf("test failover %d of %s on %s", test.Number, p.vm.Name, test.Host),
	}), contract.TestFailoverName, test)
	if err := child.GetChildWorkflowExecution().Get(ctx, nil); err != nil {
		st.Testing = nil
		return p.refuse(model.Conflict, "understudy status "+p.vm.Name, "the test failover was not started: %s", sentence(err))
	}
	workflow.Go(ctx, func(ctx workflow.Context) { // for one that ends without its signal
		var out contract.TestResult
		if err := child.Get(ctx, &out); err != nil {
			if ctx.Err() != nil {
				return
			}
			out = contract.TestResult{WorkflowID: id, Number: test.Number, Host: test.Host, By: test.By, Scheduled: scheduled, StartedAt: test.At, EndedAt: workflow.Now(ctx), Error: "it ended without a result: " + sentence(err)}
		}
		p.onTestFinished(ctx, out)
	})
	return nil
}

// onTestFinished keeps the result, once.
func (p *protection) onTestFinished(ctx workflow.Context, out contract.TestResult) {
	st := p.st
	if st.Testing == nil || st.Testing.Number != out.Number {
		return
	}
	st.Testing = nil
	p.wake = true
	if out.Postponed {
		at := workflow.Now(ctx).Add(testLater)
		st.BootAfter = &at
		return
	}
	st.BootAfter = nil
	st.Tests = keepNewest(append(st.Tests, out))
	try := "understudy test-failover " + p.vm.Name
	switch want := st.Policy.RTO; {
	case !out.Passed:
		p.alert(ctx, contract.AlertTestFailed, fmt.Sprintf("point %d did not pass its test failover on %s: %s", out.Point.Seq, out.Host, out.Error), try)
	case want > 0 && out.RTO > want:
		p.alert(ctx, contract.AlertTestFailed, fmt.Sprintf("a test failover took %s until the guest answered; the target is %s", out.RTO.Round(100*time.Millisecond), want), try)
	default:
		p.clear(contract.AlertTestFailed)
	}
	p.refresh(ctx)
}

// bootDue starts a scheduled boot verification when its time has come. It is the first thing to wait when not everything fits.
func (p *protection) bootDue(ctx workflow.Context) {
	st, now := p.st, workflow.Now(ctx)
	if t := st.Testing; t != nil && now.Sub(t.At) > testLimit {
		st.Testing = nil
	}
	every := st.Policy.BootEvery
	if every <= 0 || p.validTest(contract.TestRequestIn{}) != nil || p.postponed() || p.unprotect != nil || st.Failed != "" || st.Paused != nil {
		return
	}
	if st.BootAfter != nil && st.BootAfter.After(now) {
		return
	}
	last := slices.IndexFunc(st.Tests, func(r contract.TestResult) bool {
		return r.Host == st.Standby && now.Sub(r.StartedAt) < max(every, bootPeriod)
	})
	if last >= 0 {
		return
	}
	if err := p.startTest(ctx, contract.TestRequestIn{By: "policy"}, true); err != nil {
		p.log.Warn("a boot verification was not started", "error", err)
		at := now.Add(testLater)
		st.BootAfter = &at
	}
}
