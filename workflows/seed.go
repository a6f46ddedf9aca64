package workflows

import (
	"errors"
	"fmt"

	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/model"
)

const fromWhatIsLeft = "compared with the disks that the VM left on the standby"

// seed has the returning host make a base of the disks that the VM left there, so that the first point sends only what
// differs. Nothing is wrong when it cannot: the first point is a full copy then.
func (p *protection) seed(ctx workflow.Context) error {
	st := p.st
	if st.Seeded || !st.Committed.IsZero() || st.Rescue == nil {
		return nil
	}
	work, cancel := workflow.WithCancel(ctx)
	p.cancelCycle = cancel
	defer func() {
		cancel()
		p.cancelCycle = nil
	}()
	ref := model.PointRef{Generation: st.Generation, Seq: st.NextSeq}
	st.NextSeq++
	out, err := stage(p, work, contract.Seed, contract.BulkQueue(st.Standby), "make a base of the disks that the VM left", contract.SeedIn{
		Fence: p.fence(), Point: ref, Disks: st.Disks,
	})
	switch {
	case errors.Is(err, errInterrupted):
		return err
	case err != nil && unclear(err):
		return fmt.Errorf("the disks that the VM left there could not be looked at: %w", err)
	case err != nil:
		p.log.Warn("the first point is a full copy", "standby", st.Standby, "error", err)
	case out.Seeded:
		st.Seed = out.Point
	default:
		p.log.Info("the first point is a full copy", "standby", st.Standby, "why", out.Skipped)
	}
	st.Seeded = true
	if out.Rescue != nil {
		st.Rescue.Disks = out.Rescue
	}
	return nil
}

// base is what the next point builds on: a point, or the seed while there is none.
func (p *protection) base() model.PointRef {
	if ref := p.parent(); !ref.IsZero() || p.st.Reseed != "" {
		return ref
	}
	return p.st.Seed
}

// resyncReason is why the next capture does not trust bitmaps; empty when it does.
func (p *protection) resyncReason() string {
	if why := p.st.ForceResync; why != "" || p.st.Seed.IsZero() || p.base() != p.st.Seed {
		return why
	}
	return fromWhatIsLeft
}

// cameFrom is the point that the VM came here with, while the standby is compared with its own old disks.
func (p *protection) cameFrom(parent model.PointRef) model.PointRef {
	if parent.IsZero() || parent != p.st.Seed {
		return model.PointRef{}
	}
	return p.st.From
}

// learnRescue takes in how much of the old disks was in no point. After a switchover that is known to be nothing.
func (p *protection) learnRescue(c capture, sent contract.ReplicateOut) {
	if r := p.st.Rescue; r != nil && !c.parent.IsZero() && c.parent == p.st.Seed && r.Unreplicated < 0 && !sent.Resumed {
		r.Unreplicated = sent.Unreplicated()
	}
}
