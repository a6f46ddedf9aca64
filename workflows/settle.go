package workflows

import (
	"errors"
	"slices"
	"time"

	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// settleInFlight finds out what became of a cycle that was interrupted or whose end nobody told, so that its point is
// neither lost nor made twice. False means that the standby could not be asked.
func (p *protection) settleInFlight(ctx workflow.Context) bool {
	fl := p.st.InFlight
	if fl == nil {
		return true
	}
	if ctx.Err() != nil {
		free, cancel := workflow.NewDisconnectedContext(ctx)
		defer cancel()
		ctx = free
	}
	if fl.Stage == stageVerify || fl.Stage == stageUnclear {
		fl.Stage = stageUnclear
		view, err := p.whetherCommitted(ctx, fl.PointRef)
		switch {
		case errors.Is(err, errInterrupted):
			return false
		case err != nil:
			p.failed(ctx, err)
			return false
		case view != nil:
			p.st.Points++
			p.commit(ctx, p.adopted(*view, *fl, workflow.Now(ctx)))
			p.settle(ctx)
			return true
		}
	}
	p.giveUp(ctx)
	return true
}

// whetherCommitted asks the standby. Before a "no" is believed the staging is thrown away: an attempt that still runs
// somewhere can then commit nothing any more.
func (p *protection) whetherCommitted(ctx workflow.Context, ref model.PointRef) (*contract.PointView, error) {
	if view, err := p.onStandby(ctx, ref); err != nil || view != nil {
		return view, err
	}
	if _, err := stage(p, ctx, contract.Discard, p.queue(p.st.Standby), "throw the staging away", p.pointIn(ref)); err != nil {
		return nil, err
	}
	return p.onStandby(ctx, ref)
}

func (p *protection) onStandby(ctx workflow.Context, ref model.PointRef) (*contract.PointView, error) {
	out, err := stage(p, ctx, contract.Points, p.queue(p.st.Standby), "was the point committed?", contract.PointsIn{VM: p.vm})
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(out.Points, func(v contract.PointView) bool { return v.PointRef == ref })
	if i < 0 {
		return nil, nil //nolint:nilnil // not there, and nothing went wrong
	}
	return &out.Points[i], nil
}

func (p *protection) adopted(v contract.PointView, fl contract.InFlight, now time.Time) contract.PointSummary {
	s := summaryOf(v)
	s.DirtyBytes = fl.DirtyBytes
	s.CycleMS = float64(now.Sub(fl.StartedAt)) / float64(time.Millisecond)
	return s
}

// summaryOf is the short form of a listed point.
func summaryOf(v contract.PointView) contract.PointSummary {
	c := capture{}
	for _, d := range v.Disks {
		c.Disks = append(c.Disks, model.SnapshotDisk{Mode: d.Mode})
	}
	s := contract.PointSummary{
		PointRef: v.PointRef, TakenAt: v.TakenAt, VerifiedAt: v.VerifiedAt, Consistency: v.Consistency, StallMS: v.StallMS,
		Modes: string(c.worstMode()),
	}
	for _, d := range v.Disks {
		s.DirtyBytes += d.DirtyBytes
		s.SentBytes += d.SentBytes
	}
	return s
}

// giveUp abandons the capture and gives its writes back: exposure never falls without a verified point. Both clean-ups are
// done again by the next snapshot and the next staging, so that a silent host holds nothing up.
func (p *protection) giveUp(ctx workflow.Context) {
	fl := p.st.InFlight
	if !p.silent(p.st.Primary) {
		if _, err := stage(p, ctx, contract.Abandon, p.queue(p.st.Primary), "drop the capture", p.pointIn(fl.PointRef)); err != nil {
			p.log.Warn("a capture was not abandoned", "point", fl.PointRef.String(), "error", err)
		}
	}
	if (fl.Stage != stageSnapshot || p.st.Gear == contract.GearMerged) && !p.silent(p.st.Standby) {
		if _, err := stage(p, ctx, contract.Discard, p.queue(p.st.Standby), "throw the staging away", p.pointIn(fl.PointRef)); err != nil {
			p.log.Warn("a staging was not discarded", "point", fl.PointRef.String(), "error", err)
		}
	}
	if st := p.st; fl.Origin != nil && (st.Unreplicated == nil || fl.Origin.Before(*st.Unreplicated)) {
		st.Unreplicated = fl.Origin
	}
	p.st.Assumed = p.st.Assumed && fl.DirtyBytes == 0 && fl.Stage != stageSend
	p.givenBack = !fl.TakenAt.IsZero() || fl.Stage == stageSend
	p.st.InFlight, p.nextOrigin = nil, nil
}

func (p *protection) pointIn(ref model.PointRef) contract.PointIn {
	return contract.PointIn{Fence: p.fence(), Point: ref}
}
