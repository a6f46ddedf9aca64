package workflows

import (
	"errors"
	"fmt"
	"time"

	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// Recover begins protections again after Temporal's database was lost: the records say who may run each VM and what was promised,
// the standbys say which points there are. A protection that runs is left alone. Nothing is started or stopped; a takeover that
// was under way is given back to the last holder, under a generation of its own.
func Recover(ctx workflow.Context) (contract.RecoverOut, error) {
	out := contract.RecoverOut{Recovered: []contract.Recovered{}}
	list, err := contract.ListRecords.Execute(ctx, contract.ControlQueue, "who may run what?", contract.None{})
	if err != nil {
		return out, surface(err, "", "")
	}
	for _, rec := range list.Records {
		r := contract.Recovered{VM: rec.VM, Result: contract.RecoverDone}
		var runs *temporal.ChildWorkflowExecutionAlreadyStartedError
		if detail, err := recoverOne(ctx, rec); errors.As(err, &runs) {
			r.Result = contract.RecoverRuns
		} else if err != nil {
			r.Result, r.Detail = contract.RecoverFailed, clip(sentence(err))
		} else {
			r.Detail = detail
		}
		out.Recovered = append(out.Recovered, r)
	}
	return out, nil
}

func recoverOne(ctx workflow.Context, rec model.Record) (string, error) {
	if rec.Policy == nil || rec.Standby == "" {
		return "", contract.Refuse(model.Refused, contract.Detail{VM: rec.VM.Name, Try: "understudy unprotect, then understudy protect"},
			"the record of %s does not say what was promised", rec.VM.Name)
	}
	options := workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID: contract.ProtectID(rec.VM.UUID), TaskQueue: contract.ControlQueue, ParentClosePolicy: enums.PARENT_CLOSE_POLICY_ABANDON,
		WorkflowIDReusePolicy: enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE, StaticSummary: rec.VM.Name,
	})
	child := workflow.ExecuteChildWorkflow(options, contract.ProtectVMName, contract.ProtectIn{
		Spec:  contract.ProtectSpec{VM: rec.VM, Primary: rec.PermitHost, Standby: rec.Standby, Policy: *rec.Policy},
		State: recoveredState(workflow.Now(ctx), rec),
	})
	if err := child.GetChildWorkflowExecution().Get(ctx, nil); err != nil {
		return "", err
	}
	return fmt.Sprintf("generation %d on %s, to %s", rec.Permitted, rec.PermitHost, rec.Standby), nil
}

// recoveredState is what is known for sure. What is on the way, what was learned and which points there are is found anew by the
// protection itself (rediscover).
func recoveredState(now time.Time, rec model.Record) *contract.ProtectState {
	return &contract.ProtectState{
		Schema: schema, Phase: model.PhaseDegraded, Accepted: true, Primary: rec.PermitHost, Standby: rec.Standby, Policy: *rec.Policy,
		Generation: rec.Permitted, Claimed: rec.Claimed, NextSeq: 1, Unreplicated: &now, Assumed: true, Rediscover: true,
		KeptPolicy: rec.Policy.Version, KeptStandby: rec.Standby,
	}
}

// rediscover finds out, on the standby and on the primary, where a recovered protection stands. It is tried again until both
// answer: before that nothing else is done.
func (p *protection) rediscover(ctx workflow.Context) {
	st := p.st
	err := p.giveBack(ctx)
	var stored contract.PointsOut
	if err == nil {
		stored, err = contract.Points.Execute(ctx, p.queue(st.Standby), "which points are there?", contract.PointsIn{VM: p.vm})
	}
	if err == nil {
		err = p.check(ctx)
	}
	if err != nil {
		p.blind++
		p.backOff(ctx, p.blind+2)
		p.alert(ctx, contract.AlertStandbyNotReady, "the protection was recovered and cannot go on yet: "+sentence(err), advice(err))
		p.rest(ctx, p.decideStandby(ctx))
		return
	}
	for _, v := range stored.Points {
		if v.Seq >= st.NextSeq {
			st.NextSeq = v.Seq + 1
		}
		if v.Primary == st.Primary { // of the chain that is being made, not of an older role
			st.Committed = v.PointRef
			st.Recent = keepNewest(append(st.Recent, summaryOf(v)))
		}
	}
	st.NextSeq += 10 // numbers that were on their way when the database was lost are not used again
	st.Points, p.blind, st.RetryAt = len(stored.Points), 0, nil
	if !st.Committed.IsZero() {
		st.ForceResync = "the protection was recovered from its record"
	}
	st.StandbyReady, st.Rediscover = true, false
	p.clear(contract.AlertStandbyNotReady)
	p.attach(ctx)
	p.look = true
}

// giveBack closes a takeover that was under way: nobody drives it any more.
func (p *protection) giveBack(ctx workflow.Context) error {
	out, err := contract.ReadRecord.Execute(ctx, contract.ControlQueue, "who may run it?", p.fence())
	if err != nil {
		return err
	}
	p.st.Grantor = out.Grantor
	rec := out.Record
	if !rec.Open() {
		return nil
	}
	g := contract.Fence{VM: p.vm, Generation: rec.Claimed + 1}
	if _, err := contract.Claim.Execute(ctx, contract.ControlQueue, "close the takeover that nobody drives", contract.ClaimIn{
		Fence: g, Target: rec.PermitHost, Attempt: p.id(), Expect: rec.Permitted,
	}); err != nil {
		return err
	}
	if _, err := contract.Permit.Execute(ctx, contract.ControlQueue, "back to its last holder", contract.PermitIn{
		Fence: g, Host: rec.PermitHost, Attempt: p.id(), Mode: model.ModeSole,
	}); err != nil {
		return err
	}
	p.st.Generation, p.st.Claimed, p.st.TakeUp = g.Generation, g.Generation, true
	return nil
}

// keep puts what the protection is beside its record when it changed.
func (p *protection) keep(ctx workflow.Context) {
	st := p.st
	if st.KeptPolicy == st.Policy.Version && st.KeptStandby == st.Standby {
		return
	}
	if _, err := contract.Keep.Execute(ctx, contract.ControlQueue, "keep the policy beside the record", contract.KeepIn{Fence: p.fence(), Standby: st.Standby, Policy: st.Policy}); err != nil {
		p.log.Warn("the policy could not be kept beside the record", "error", err)
		return
	}
	st.KeptPolicy, st.KeptStandby = st.Policy.Version, st.Standby
}
