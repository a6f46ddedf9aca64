package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/model"
)

const clearAwayName = "clear away"

// overlap is what a failover does beside its steps, because a VM is down meanwhile: nothing of it starts anything, and what it
// prepares is used only for the point that is chosen in the end.
//
//	beside    is done                                           unless
//	elect     fit, for the point that the protection expects    a person chose one
//	prove     the list of points that the salvage builds on     nothing is salvaged
//	prove     materialize                                       a salvage may still make a newer point
//	permit    materialize                                       it was done beside prove
type overlap struct {
	on     bool
	fit    *expected
	listed *contract.Future[contract.PointsOut]
	disks  *laidOut
}

type expected struct {
	point model.PointRef
	out   contract.Future[contract.FitOut]
}

type laidOut struct {
	point model.PointRef
	began time.Time
	ended time.Time
	out   contract.MaterializeOut
	err   error
}

// expectFit asks about the newest point that the protection knows of, while the target lists what it has.
func (f *failover) expectFit(ctx workflow.Context) {
	if f.overlap.on && f.in.Seq == 0 && !f.in.Newest.IsZero() {
		f.askFit(ctx, f.in.Newest)
	}
}

// askFit asks the target whether it has what the point needs, once.
func (f *failover) askFit(ctx workflow.Context, point model.PointRef) contract.Future[contract.FitOut] {
	if x := f.overlap.fit; x != nil && x.point == point {
		return x.out
	}
	f.overlap.fit = &expected{point, contract.Fit.Start(ctx, contract.HostQueue(f.in.To), "does it fit there?", contract.FitIn{
		VM: f.in.VM, Point: point, Networks: f.in.Networks, EncryptionAtRest: f.in.EncryptionAtRest,
	})}
	return f.overlap.fit.out
}

// besideProof begins what the target can do while evidence is gathered. The target is sealed, so that no point can follow those
// that it has.
func (f *failover) besideProof(ctx workflow.Context) {
	switch {
	case !f.overlap.on:
	case f.in.Salvage != nil:
		listed := f.askPoints(ctx)
		f.overlap.listed = &listed
	default:
		f.layOut(ctx)
	}
}

// layOut begins to lay out the disks on the chosen point, which nothing runs from before the permit.
func (f *failover) layOut(ctx workflow.Context) {
	if !f.overlap.on || f.overlap.disks != nil {
		return
	}
	d := &laidOut{point: f.out.Point.PointRef, began: workflow.Now(ctx)}
	f.overlap.disks = d
	f.undo.addLast(clearAwayName, 1, f.clearAway)
	workflow.Go(ctx, func(ctx workflow.Context) {
		a := contract.Materialize
		a.Options.WaitForCancellation = true // so that what takes it back does not come before it
		d.out, d.err = a.Execute(ctx, contract.HostQueue(f.in.To), fmt.Sprintf("disks on point %d", d.point.Seq), contract.MaterializeIn{Fence: f.fence(), Point: d.point})
		d.ended = workflow.Now(ctx)
	})
}

// materialize waits for the disks of the point, or lays them out now.
func (f *failover) materialize(ctx workflow.Context, point model.PointRef) error {
	d := f.overlap.disks
	if d == nil || d.point != point {
		return f.step(ctx, "materialize", func(ctx workflow.Context) (string, error) {
			out, err := contract.Materialize.Execute(ctx, contract.HostQueue(f.in.To), fmt.Sprintf("disks on point %d", point.Seq), contract.MaterializeIn{Fence: f.fence(), Point: point})
			f.out.Disks = out.Disks
			return disksOn(len(out.Disks), point), err
		})
	}
	if err := workflow.Await(ctx, func() bool { return !d.ended.IsZero() }); err != nil {
		return err
	}
	f.overlap.disks = &laidOut{} // a second try of the point lays them out again
	f.out.Disks = d.out.Disks
	f.note(ctx, contract.FailoverStep{
		Name: "materialize", At: d.began, Took: d.ended.Sub(d.began), Detail: disksOn(len(d.out.Disks), point), Error: clip(sentence(d.err)),
	})
	return d.err
}

func disksOn(n int, point model.PointRef) string {
	if n == 1 {
		return fmt.Sprintf("one disk on point %d", point.Seq)
	}
	return fmt.Sprintf("%d disks on point %d", n, point.Seq)
}

// clearAway takes disks away that were laid out for a start that was never permitted. The VM's way back does not wait for it: it
// comes after that, and a target that is lost is not asked; what is left there goes when that host is used again.
func (f *failover) clearAway(ctx workflow.Context) error {
	d := f.overlap.disks
	if err := workflow.Await(ctx, func() bool { return !d.ended.IsZero() || f.lost }); err != nil || f.lost {
		return err
	}
	a := contract.Dismantle
	a.Options.ScheduleToStartTimeout, a.Options.RetryPolicy = 3*time.Second, nil
	a.Options.ScheduleToCloseTimeout = 15 * time.Second
	_, err := a.Execute(ctx, contract.HostQueue(f.in.To), "take the disks away that were laid out", contract.StartIn{Fence: f.fence(), Point: d.point})
	if kindOf(err) == model.StaleGeneration { // the way back needed a word of the target: it is the rescue copy of a former life
		return nil
	}
	return err
}
