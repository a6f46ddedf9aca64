package workflows

import (
	"errors"
	"fmt"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/decide/cadence"
	"understudy/internal/model"
)

// shift lets the gearbox see the interval that is planned for the next cycle. The cycle keeps what it showed: looks in between
// count for nothing.
func (p *protection) shift(c model.Cadence) {
	p.gears = p.learned.Gears
	if lawful(c.Binding) && !c.Skip && c.Interval > 0 {
		p.gears = p.gears.Next(c.Interval)
	}
}

// gear is how the next cycle is made. The gearbox knows a third one, in which the agent decides; there is none
// (docs/adr/0015), so the merged one stands for it.
func (p *protection) gear() string {
	if p.gears.Set && p.gears.Gear < cadence.GearStages && !p.stages {
		return contract.GearMerged
	}
	return contract.GearStages
}

// move brings what was written since the last point to the standby, in the gear that was decided. The gear of a point is settled
// here, before it has a number; only a capture that turns out large goes on in stages, which can resume.
func (p *protection) move(ctx workflow.Context) (c capture, sent contract.ReplicateOut, err error) {
	if p.merges(ctx) {
		out, done, err := p.captureAndSend(ctx)
		if err != nil || done != nil {
			return out, value(done), err
		}
		c = out
	} else if c, err = p.snapshot(ctx); err != nil {
		return c, sent, err
	}
	sent, err = p.replicate(ctx, &c)
	return c, sent, err
}

func value[T any](v *T) (out T) {
	if v != nil {
		out = *v
	}
	return out
}

// merges says that the next point is made in the merged gear. First copies and comparisons never are: they are known to be large.
func (p *protection) merges(ctx workflow.Context) bool {
	st := p.st
	if st.Gear != contract.GearMerged {
		return false
	}
	if p.base().IsZero() || p.resyncReason() != "" || st.Reread || p.learned.Size.Dirty >= worthKeeping && p.learned.Size.At.After(p.lastCapture()) || !since(ctx, mergedGear) {
		st.Gear = contract.GearStages // of this point
		return false
	}
	return true
}

// captureAndSend makes a point in one activity on the primary. Whatever becomes of it, what is known of the capture is taken in as
// if the stages had been two. Nothing was sent when there is neither an answer of the sending nor an error.
func (p *protection) captureAndSend(ctx workflow.Context) (capture, *contract.ReplicateOut, error) {
	in := contract.CaptureAndSendIn{Capture: p.number(ctx, stageSend), Below: worthKeeping}
	in.Send = p.sending(ctx, p.st.InFlight.PointRef, in.Capture.Parent)
	summary := fmt.Sprintf("point %d, captured and sent", in.Capture.Seq)
	out, err := stage(p, ctx, contract.CaptureAndSend, contract.BulkQueue(p.st.Primary), summary, in)
	if err != nil {
		p.capturedAllTheSame(ctx, err, in.Capture.Freeze)
		return capture{}, nil, err
	}
	p.captured(ctx, out.Capture, in.Capture.Freeze)
	now := workflow.Now(ctx).Add(-value(out.Sent).Took)
	c := capture{SnapshotOut: out.Capture, parent: in.Capture.Parent, predicted: p.predicted(now, out.Capture)}
	return c, out.Sent, nil
}

// capturedAllTheSame finds out what a failed activity had captured: the agent tells it with the error, and with its last sign of
// life. What is not told may have been captured.
func (p *protection) capturedAllTheSame(ctx workflow.Context, err error, froze bool) {
	if contract.ErrorType(err) == contract.NotRegistered {
		p.stages = true
		p.log.Warn("the agent of the primary cannot capture and send in one: it is of an older release", "primary", p.st.Primary)
	}
	switch out, known := capturedBefore(err); {
	case known:
		p.captured(ctx, out, froze)
		p.st.InFlight.Stage = stageReplicate
	case contract.ErrorType(err) != "":
		p.st.InFlight.Stage = stageSnapshot // it said why, and gave the writes back
	}
}

func capturedBefore(err error) (contract.SnapshotOut, bool) {
	var app *temporal.ApplicationError
	var timeout *temporal.TimeoutError
	var out contract.SnapshotOut
	told := false
	switch {
	case errors.As(err, &app):
		told = app.HasDetails() && app.Details(&contract.Detail{}, &out) == nil
	case errors.As(err, &timeout):
		told = timeout.HasLastHeartbeatDetails() && timeout.LastHeartbeatDetails(&contract.ReplicateProgress{}, &out) == nil
	}
	return out, told && !out.Point.IsZero()
}
