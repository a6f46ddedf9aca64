package workflows

import (
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/model"
)

const (
	drainRounds = 4       // points that are made before the VM is paused
	drainSmall  = 8 << 20 // bytes to look at: what is left of so little is over in a moment
	maxPause    = 2 * time.Minute
)

// A switchover is a takeover of a VM that lives. Its steps before those of every takeover:
//
//	step   does                                               undo               idempotent because
//	pause  the guest stops; its agent bounds that by itself   let it go on       one that is paused for the attempt is success
//	final  snapshot, replicate, verify: the last point        – (settled by the parent)  same number
//
// The old copy gives up only while it is still paused since then (surrenderPaused): what it wrote is in the last point, or
// nothing moves.
func (f *failover) plannedSteps() []takeoverStep {
	if f.in.Planned == nil {
		return nil
	}
	f.out.Planned = true
	return []takeoverStep{{"pause", f.pauseGuest}, {"final", f.finalPoint}}
}

func (f *failover) pauseGuest(ctx workflow.Context) (string, error) {
	f.undo.add("let it go on", f.letGoOn)
	f.paused = workflow.Now(ctx)
	in := contract.PauseGuestIn{Fence: f.was(), Attempt: f.id, MaxPause: f.in.Planned.MaxPause}
	_, err := contract.PauseGuest.Execute(ctx, contract.HostQueue(f.in.From), "pause "+f.in.VM.Name, in)
	return fmt.Sprintf("for %s at most", in.MaxPause), err
}

// was is the fence of the generation that is being left.
func (f *failover) was() contract.Fence {
	return contract.Fence{VM: f.in.VM, Generation: f.in.Expect}
}

// letGoOn ends the pause, under the generation that the VM has now. A copy that gave up already is started by its parent.
func (f *failover) letGoOn(ctx workflow.Context) error {
	in := contract.UnpauseGuestIn{Fence: f.was(), Attempt: f.id}
	if g := f.out.HandedBackGeneration; g > 0 {
		in.Generation = g
	}
	_, err := contract.UnpauseGuest.Execute(ctx, contract.HostQueue(f.in.From), "let it go on", in)
	return err
}

// finalPoint is a cycle of a VM that writes nothing any more.
func (f *failover) finalPoint(ctx workflow.Context) (string, error) {
	pl := f.in.Planned
	var taken contract.SnapshotOut
	var sent contract.ReplicateOut
	err := f.step(ctx, "snapshot", func(ctx workflow.Context) (_ string, err error) {
		taken, err = contract.Snapshot.Execute(ctx, contract.HostQueue(f.in.From), fmt.Sprintf("last point, %d", pl.Point.Seq), contract.SnapshotIn{
			Fence: f.was(), Seq: pl.Point.Seq, Parent: pl.Parent, RPO: pl.RPO,
		})
		return size(taken.DirtyBytes) + " to look at", err
	})
	if err != nil {
		return "", err
	}
	err = f.step(ctx, "replicate", func(ctx workflow.Context) (_ string, err error) {
		sent, err = contract.Replicate.Execute(ctx, contract.BulkQueue(f.in.From), "last point to "+string(f.in.To), contract.ReplicateIn{
			Fence: f.was(), Point: pl.Point, Parent: pl.Parent, Standby: f.in.To, LinkAddress: pl.LinkAddress, Compression: pl.Compression,
			Tier: pl.Tier, RPO: pl.RPO,
		})
		return size(sent.SentBytes) + " sent", err
	})
	if err != nil {
		return "", err
	}
	err = f.step(ctx, "verify", func(ctx workflow.Context) (string, error) {
		_, err := contract.Verify.Execute(ctx, contract.BulkQueue(f.in.To), "prove the last point", contract.VerifyIn{
			Fence: f.was(), Point: pl.Point, Parent: pl.Parent, Primary: f.in.From, TakenAt: taken.TakenAt, Consistency: taken.Consistency,
			StallMS: taken.StallMS, Disks: taken.Disks, Stats: sent.Disks, KeepLast: pl.KeepLast, Hourly: pl.Hourly, Daily: pl.Daily,
			PostponeMerges: true,
		})
		return "", err
	})
	f.in.Seq = pl.Point.Seq // no other one will do
	return fmt.Sprintf("point %d", pl.Point.Seq), err
}

// surrenderPaused is the evidence of a switchover. There is no other: a copy that does not give up keeps the VM. It is asked
// twice, because an answer can be lost, and the second one is the same.
func (f *failover) surrenderPaused(ctx workflow.Context) (string, error) {
	from := f.in.From
	in := contract.SurrenderIn{Fence: f.fence(), Attempt: f.id, Paused: true}
	out, err := contract.Surrender.Execute(ctx, contract.HostQueue(from), string(from)+" gives it up", in)
	if err != nil && unclear(err) && ctx.Err() == nil {
		out, err = contract.Surrender.Execute(ctx, contract.HostQueue(from), string(from)+" gives it up", in)
	}
	if err != nil {
		return "", err
	}
	f.out.Evidence = &out.Evidence
	return fmt.Sprintf("%s: %s", out.Evidence.Kind, out.Evidence.Detail), nil
}

// ran notes how long nothing ran.
func (f *failover) ran(ctx workflow.Context, err error) {
	if err == nil && !f.paused.IsZero() {
		f.out.Downtime = workflow.Now(ctx).Sub(f.paused)
	}
}

// --- the protection's side ---------------------------------------------------------------------------------------------------

func (p *protection) switchingOver() bool {
	t := p.st.Trigger
	return p.failingOver() && t != nil && t.Planned != nil
}

func (p *protection) validSwitchover(in contract.SwitchoverRequestIn) error {
	if err := p.mustBeReady(); err != nil {
		return err
	}
	if err := p.cannotCycle(); err != nil {
		return err
	}
	st, name := p.st, p.vm.Name
	switch {
	case st.Committed.IsZero():
		return p.refuse(model.Conflict, "understudy status "+name, "%s has no verified point on %s yet", name, st.Standby)
	case p.silent(st.Standby):
		return p.refuse(model.Conflict, "understudy hosts", "%s is not heard", st.Standby)
	case p.silent(st.Primary):
		return p.refuse(model.Conflict, "understudy failover "+name, "%s is not heard: a switchover needs both hosts", st.Primary)
	case p.testing(st.Standby):
		return p.refuse(model.Conflict, "understudy status "+name, "a test failover of %s is running", name)
	case in.MaxPause < 0 || in.MaxPause > time.Hour:
		return p.refuse(model.InvalidArgument, "", "the pause must be bounded by something up to an hour, not %s", in.MaxPause)
	case in.Failback && st.Primary == p.in.Spec.Primary:
		return p.refuse(model.Conflict, "understudy status "+name, "%s runs on %s already, where it was protected first", name, st.Primary)
	case in.Failback && st.Standby != p.in.Spec.Primary:
		return p.refuse(model.Conflict, "understudy switchover "+name, "%s, where %s was protected first, is not its standby", p.in.Spec.Primary, name)
	case in.Failback && !in.KeepRescue && st.Rescue != nil && st.Rescue.Unreplicated > 0:
		return p.refuse(model.Refused, "understudy failback --yes "+name, "%s holds %s of %s that were in no point when it moved; they stay in %v",
			st.Rescue.Host, size(st.Rescue.Unreplicated), name, st.Rescue.Disks)
	}
	return nil
}

// requestSwitchover waits until the takeover runs, or it is clear why it does not.
func (p *protection) requestSwitchover(ctx workflow.Context, in contract.SwitchoverRequestIn) (contract.FailoverRequestOut, error) {
	if in.MaxPause == 0 {
		in.MaxPause = maxPause
	}
	before, mine := p.st.Failover, &in
	p.moveErr = nil
	p.st.Trigger = &contract.FailoverTrigger{
		Reason: in.Reason, By: in.By, At: workflow.Now(ctx), Host: p.st.Primary, Request: true, Planned: mine,
	}
	p.wake = true
	asked := func() bool { return p.st.Trigger != nil && p.st.Trigger.Planned == mine }
	if err := workflow.Await(ctx, func() bool { return p.st.Failover != before || !asked() }); err != nil {
		return contract.FailoverRequestOut{}, err
	}
	switch f := p.st.Failover; {
	case f != before && f.Planned:
		return contract.FailoverRequestOut{WorkflowID: f.WorkflowID, Generation: f.Generation}, nil
	case p.moveErr != nil:
		return contract.FailoverRequestOut{}, surface(p.moveErr, p.vm.Name, p.st.Primary)
	}
	return contract.FailoverRequestOut{}, p.refuse(model.Conflict, "understudy status "+p.vm.Name, "something more urgent came before the switchover of %s", p.vm.Name)
}

// drained makes points until what is left is little, so that the pause is short. False when the switchover is off.
func (p *protection) drained(ctx workflow.Context) bool {
	mine := p.st.Trigger.Planned
	asked := func() bool { return p.st.Trigger != nil && p.st.Trigger.Planned == mine }
	if p.st.InFlight != nil && !p.settleInFlight(ctx) {
		if asked() {
			p.callOff(ctx, errors.New("the standby does not say what became of the last point: "+p.st.LastError))
		}
		return false
	}
	before := int64(0)
	for round := 1; ; round++ {
		p.cycle(ctx)
		switch {
		case !asked() || ctx.Err() != nil:
			return false
		case p.lastEnd != nil:
			p.callOff(ctx, p.lastEnd)
			return false
		case p.unprotect != nil:
			p.callOff(ctx, p.refuse(model.Conflict, "", "the protection of %s is being removed", p.vm.Name))
			return false
		}
		left := p.st.Recent[len(p.st.Recent)-1].DirtyBytes
		if left <= drainSmall || round == drainRounds || before > 0 && left > before/2 {
			return true
		}
		before = left
	}
}

// callOff gives a switchover up before anything was done for it.
func (p *protection) callOff(ctx workflow.Context, err error) {
	p.moveErr, p.st.Trigger = err, nil
	p.wake, p.look = true, true
	p.suspect(ctx)
}

// goneOn: a switchover that came to nothing and a point that followed it leave nothing to worry about.
func (p *protection) goneOn() {
	if f := p.st.Failover; f != nil && f.Planned && f.Outcome == contract.OutcomeRolledBack && p.st.Failed == "" {
		p.clear(contract.AlertFailoverFailed)
	}
}

// plan makes a takeover the switchover that was asked for. The number of the last point is reserved; whether there is such a
// point is asked when the takeover comes to nothing.
func (p *protection) plan(in *contract.FailoverIn, t contract.FailoverTrigger, now time.Time, c string) bool {
	if t.Planned == nil {
		return false
	}
	st := p.st
	ref := model.PointRef{Generation: st.Generation, Seq: st.NextSeq}
	st.NextSeq++
	st.InFlight = &contract.InFlight{PointRef: ref, Stage: stageUnclear, StartedAt: now}
	p.nextOrigin = nil
	in.Planned = &contract.Planned{
		Point: ref, Parent: st.Committed, LinkAddress: st.Links[string(st.Standby)], Compression: c, Tier: st.Policy.Tier,
		RPO: st.Policy.RPO, KeepLast: st.Policy.KeepLast, Hourly: st.Policy.Hourly, Daily: st.Policy.Daily, MaxPause: t.Planned.MaxPause,
	}
	return true
}

// moved remembers where the VM came from, and what is left there.
func (p *protection) moved(ctx workflow.Context, out contract.FailoverOut) {
	st := p.st
	st.From, st.Seed, st.Seeded = out.Point.PointRef, model.PointRef{}, false
	st.Rescue = &contract.Rescue{Host: st.Standby, Disks: []string{}, Since: workflow.Now(ctx), Unreplicated: -1}
	if out.Planned {
		st.Rescue.Unreplicated = 0 // the last point is what it was
	}
}
