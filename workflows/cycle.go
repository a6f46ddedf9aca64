package workflows

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/decide/cadence"
	"understudy/internal/decide/mode"
	"understudy/internal/model"
)

// Stages of a cycle under way, as status shows them.
const (
	stageSnapshot  = "snapshot"
	stageReplicate = "replicate"
	stageSend      = "capture and send" // both in one activity: what was captured is not known yet
	stageVerify    = "verify"
	stageUnclear   = "unclear" // verify may have committed, but nobody answered
)

const (
	// A copy that lost its link goes on from what the standby acknowledged, so that a large one is not begun again.
	worthKeeping    = 64 << 20
	replicateRounds = 6
)

// errInterrupted says that something more urgent than the stage came up: its result is not waited for.
var errInterrupted = errors.New("interrupted")

// cycle makes one recovery point; after a failure that could be mended it tries once more at once.
func (p *protection) cycle(ctx workflow.Context) {
	p.started++
	if p.resync != "" { // not before: the cycle under way at the request would use it up
		p.st.ForceResync, p.st.Reread, p.resync = p.resync, true, ""
	}
	p.giveWay()
	p.learned.Gears = p.gears
	p.lastEnd = p.attempt(ctx)
	if p.lastEnd != nil && p.mend(ctx, p.lastEnd) && !p.interrupted {
		p.due = time.Time{}
		if p.lastEnd = p.attempt(ctx); p.lastEnd != nil {
			p.mend(ctx, p.lastEnd)
		}
	}
	p.ended++
	p.cycles++
	p.due = time.Time{}
	p.look = p.look || p.rpo(ctx) >= earlyLook
}

func (p *protection) attempt(parent workflow.Context) error {
	ctx, cancel := workflow.WithCancel(parent)
	p.cancelCycle = cancel
	defer func() {
		cancel()
		p.cancelCycle = nil
	}()
	c, sent, err := p.move(ctx)
	if err != nil {
		return err
	}
	proved, err := p.verify(ctx, c, sent)
	if err != nil {
		return err
	}
	p.learnCycle(ctx, c, sent, proved, p.due)
	p.learnRescue(c, sent)
	p.st.Points = proved.Points
	p.atRest(ctx, p.st.Standby, proved.AtRest)
	p.commit(ctx, c.summary(sent, proved, p.st.InFlight.StartedAt, workflow.Now(ctx)))
	p.settle(ctx)
	return nil
}

// capture is an open snapshot and what it builds on.
type capture struct {
	contract.SnapshotOut
	parent    model.PointRef
	predicted time.Duration // of moving it
	again     bool          // it was sent more than once
}

// number gives the next point its number, which is never used again, whatever becomes of it.
func (p *protection) number(ctx workflow.Context, stage string) contract.SnapshotIn {
	st := p.st
	ref := model.PointRef{Generation: st.Generation, Seq: st.NextSeq}
	st.NextSeq++
	st.InFlight = &contract.InFlight{PointRef: ref, Stage: stage, StartedAt: workflow.Now(ctx)}
	p.nextOrigin = nil
	if p.due.IsZero() {
		p.due = workflow.Now(ctx)
	}
	p.show(ctx)
	return contract.SnapshotIn{
		Fence: p.fence(), Seq: ref.Seq, Parent: p.base(), Freeze: p.frozen(),
		ForceResync: p.resyncReason(), RPO: p.rpo(ctx),
	}
}

// snapshot opens a capture.
func (p *protection) snapshot(ctx workflow.Context) (capture, error) {
	in := p.number(ctx, stageSnapshot)
	out, err := stage(p, ctx, contract.Snapshot, p.queue(p.st.Primary), fmt.Sprintf("point %d", in.Seq), in)
	if err != nil {
		return capture{}, err
	}
	p.captured(ctx, out, in.Freeze)
	return capture{SnapshotOut: out, parent: in.Parent, predicted: p.predicted(workflow.Now(ctx), out)}, nil
}

// captured takes in what a capture is.
func (p *protection) captured(ctx workflow.Context, out contract.SnapshotOut, froze bool) {
	st := p.st
	p.stalled(ctx, out, froze)
	st.InFlight.TakenAt, st.InFlight.Origin, st.InFlight.DirtyBytes = out.TakenAt, out.Origin, out.DirtyBytes
	if st.Assumed && out.Origin != nil {
		st.Unreplicated, st.Assumed = out.Origin, false
	}
}

// parent is the point that the next one builds on.
func (p *protection) parent() model.PointRef {
	if p.st.Reseed != "" {
		return model.PointRef{}
	}
	return p.st.Committed
}

func (p *protection) replicate(ctx workflow.Context, c *capture) (contract.ReplicateOut, error) {
	p.st.InFlight.Stage = stageReplicate
	p.show(ctx)
	in := p.sending(ctx, c.Point, c.parent)
	summary := fmt.Sprintf("point %d, %s to look at", c.Point.Seq, size(c.DirtyBytes))
	for round := 1; ; round++ {
		out, err := stage(p, ctx, contract.Replicate, contract.BulkQueue(p.st.Primary), summary, in)
		again := unclear(err) && (c.parent.IsZero() || c.DirtyBytes >= worthKeeping) && round < replicateRounds
		if err == nil || p.interrupted || !again {
			return out, err
		}
		p.st.LastError, c.again = clip(sentence(err)), true
		if _, stop := workflow.AwaitWithTimeout(ctx, cadence.Backoff(round, p.rpo(ctx)), func() bool { return p.interrupted }); stop != nil {
			return out, stop
		}
	}
}

func (p *protection) sending(ctx workflow.Context, point, parent model.PointRef) contract.ReplicateIn {
	eff := p.inForce(ctx)
	return contract.ReplicateIn{
		Fence: p.fence(), Point: point, Parent: parent, Standby: p.st.Standby, LinkAddress: p.st.Links[string(p.st.Standby)],
		Compression: p.compression(), MaxBandwidth: eff.MaxBandwidth, Tier: eff.Tier, RPO: eff.RPO,
		From: p.cameFrom(parent), Demand: p.demand(), Reread: p.st.Reread,
	}
}

func (p *protection) verify(ctx workflow.Context, c capture, sent contract.ReplicateOut) (contract.VerifyOut, error) {
	p.st.InFlight.Stage = stageVerify
	p.show(ctx)
	in := contract.VerifyIn{
		Fence: p.fence(), Point: c.Point, Parent: c.parent, Primary: p.st.Primary, TakenAt: c.TakenAt, Consistency: c.Consistency,
		StallMS: c.StallMS, Disks: c.Disks, Stats: sent.Disks, KeepLast: p.st.Policy.KeepLast,
		Hourly: p.st.Policy.Hourly, Daily: p.st.Policy.Daily, PostponeMerges: p.postponed(),
		KeepRescue: p.st.Rescue != nil && p.st.Rescue.Unreplicated != 0,
	}
	summary := fmt.Sprintf("prove point %d, %s sent", c.Point.Seq, size(sent.SentBytes))
	return stage(p, ctx, contract.Verify, contract.BulkQueue(p.st.Standby), summary, in)
}

// stage runs an activity of a cycle and waits for it, but no longer than until something more urgent comes up.
func stage[In, Out any](p *protection, ctx workflow.Context, a contract.Activity[In, Out], queue, summary string, in In) (Out, error) {
	var none Out
	f := a.Start(ctx, queue, summary, in)
	_ = workflow.Await(ctx, func() bool { return p.interrupted || f.Raw().IsReady() }) // a cancelled ctx ends f too
	if p.interrupted && !f.Raw().IsReady() {
		return none, errInterrupted
	}
	return f.Get(ctx)
}

// interrupt ends the wait for a running stage and cancels its cycle.
func (p *protection) interrupt() {
	p.interrupted, p.wake = true, true
	if p.cancelCycle != nil {
		p.cancelCycle()
	}
}

func (c capture) summary(sent contract.ReplicateOut, proved contract.VerifyOut, began, ended time.Time) contract.PointSummary {
	return contract.PointSummary{
		PointRef: c.Point, TakenAt: c.TakenAt, VerifiedAt: proved.VerifiedAt, Consistency: c.Consistency, Modes: string(c.worstMode()),
		DirtyBytes: c.DirtyBytes, SentBytes: sent.SentBytes, StallMS: c.StallMS, CycleMS: float64(ended.Sub(began)) / float64(time.Millisecond),
		ReplicateMS: float64(sent.Took) / float64(time.Millisecond),
	}
}

func (c capture) worstMode() model.DiskMode {
	worst := model.ModeDelta
	for _, d := range c.Disks {
		if d.Mode == model.ModeFull || d.Mode == model.ModeResync && worst == model.ModeDelta {
			worst = d.Mode
		}
	}
	return worst
}

// commit makes a verified point the one that the next builds on. What was written since its capture is at risk from here.
func (p *protection) commit(ctx workflow.Context, s contract.PointSummary) {
	st := p.st
	if s.PointRef == st.Committed {
		st.InFlight = nil
		return // counted already
	}
	st.Totals.MaxExposure = max(st.Totals.MaxExposure, p.exposure(ctx))
	st.Committed = s.PointRef
	st.Unreplicated, st.Assumed = p.nextOrigin, false
	if st.Unreplicated == nil {
		st.Unreplicated, st.Assumed = &s.TakenAt, true
	}
	st.InFlight, p.nextOrigin = nil, nil
	p.looks, p.givenBack = 0, false
	st.Reseed, st.ForceResync, st.SkipFreeze, st.Seed, st.Reread = "", "", false, model.PointRef{}, false
	st.Failures, st.LastError, st.RetryAt = 0, "", nil
	st.Recent = keepNewest(append(st.Recent, s))
	st.CycleTimes = keepNewest(append(st.CycleTimes, time.Duration(s.CycleMS*float64(time.Millisecond))))
	if st.Totals.Cycles > 0 && s.Modes != string(model.ModeDelta) {
		st.Totals.Reseeds++
	}
	st.Totals.Cycles++
	st.Totals.DirtyBytes += s.DirtyBytes
	st.Totals.SentBytes += s.SentBytes
	p.goneOn()
	p.clear(contract.AlertStandbyFull, contract.AlertNeedsAttention, contract.AlertStandbyNotReady)
	if s.Consistency != model.CrashConsistent {
		p.clear(contract.AlertFreezeFailed)
	}
	p.refresh(ctx)
}

func keepNewest[T any](list []T) []T {
	if over := len(list) - maxRecent; over > 0 {
		list = slices.Delete(list, 0, over)
	}
	return list
}

// settle ends the capture on the primary and drops what is older than the committed point. When it fails, the next
// snapshot does the same first. In the merged gear its answer is the look that would follow.
func (p *protection) settle(ctx workflow.Context) {
	in := contract.SettleIn{PointIn: p.pointIn(p.st.Committed), Look: p.st.Gear == contract.GearMerged}
	out, err := stage(p, ctx, contract.Settle, p.queue(p.st.Primary), fmt.Sprintf("keep the mark of point %d", in.Point.Seq), in)
	p.settledAt = workflow.Now(ctx)
	switch {
	case err != nil:
		p.log.Warn("the primary was not settled", "point", in.Point.String(), "error", err)
	case out.Observed != nil:
		p.settledAt = out.Observed.At.Add(-time.Nanosecond) // what it says comes after
		p.settling = true
		p.saw(ctx, *out.Observed)
		p.settling = false
		p.assumeWritesFrom(out.Observed.At)
	}
}

// mend cleans up after a failed attempt and reacts to its kind; it says whether trying again at once makes sense.
func (p *protection) mend(ctx workflow.Context, err error) bool {
	if p.interrupted || ctx.Err() != nil {
		return false // settleInFlight comes to it when there is time
	}
	p.failed(ctx, err)
	if p.st.InFlight.Stage == stageVerify && unclear(err) {
		p.st.InFlight.Stage = stageUnclear
		return false
	}
	p.giveUp(ctx)
	return p.react(ctx, err)
}

func (p *protection) failed(ctx workflow.Context, err error) {
	st := p.st
	st.Failures++
	st.Totals.Failures++
	if kindOf(err) == model.VerifyMismatch {
		st.Totals.VerifyFailures++
	}
	st.LastError = clip(sentence(err))
	p.backOff(ctx, st.Failures)
	p.log.Warn("cycle failed", "failures", st.Failures, "kind", string(kindOf(err)), "error", err)
}

func (p *protection) backOff(ctx workflow.Context, n int) {
	at := workflow.Now(ctx).Add(cadence.Backoff(n, p.rpo(ctx)))
	p.st.RetryAt = &at
}

func (p *protection) react(ctx workflow.Context, err error) (again bool) {
	st, why := p.st, clip(sentence(err))
	switch mode.React(kindOf(err)) {
	case mode.Retry:
		return false
	case mode.Resync:
		st.ForceResync = why
		return true
	case mode.Reseed:
		st.Reseed = why
		return true
	case mode.NoFreeze:
		st.SkipFreeze = true
		p.alert(ctx, contract.AlertFreezeFailed, why, advice(err))
		return true
	case mode.Prune:
		return p.makeRoom(ctx, err)
	case mode.Suspend:
		st.Off, st.RetryAt = why, nil
	case mode.Ask:
		p.alert(ctx, contract.AlertNeedsAttention, why, advice(err))
	case mode.Stop:
		st.Failed = why
		p.alert(ctx, contract.AlertStaleGeneration, why, "understudy status "+p.vm.Name)
	}
	return false
}

// makeRoom drops what the policy does not ask for; the alert stays until a point fits again.
func (p *protection) makeRoom(ctx workflow.Context, full error) bool {
	p.alert(ctx, contract.AlertStandbyFull, sentence(full), advice(full))
	in := contract.PruneIn{Fence: p.fence(), KeepLast: p.st.Policy.KeepLast, Hourly: p.st.Policy.Hourly, Daily: p.st.Policy.Daily}
	out, err := stage(p, ctx, contract.Prune, contract.BulkQueue(p.st.Standby), "make room", in)
	p.st.Points = max(p.st.Points-len(out.Dropped), 0)
	return err == nil && len(out.Dropped) > 0
}
