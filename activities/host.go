package activities

import (
	"context"
	"errors"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/activity"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// Host holds the activities of one libvirt host. Every one that acts for a VM first asks Floors whether its generation is
// still in power.
type Host struct {
	ID       model.HostID
	Floors   Floors
	Leases   Leases
	Snapshot Snapshots
	Link     Link
	Shares   Shares
	Store    Store
	Restorer Restorer
	Domains  Domains
	Watcher  Watcher
	Self     Self
	Marker   Marker
	Reserve  int64 // bytes of the store's file system that replicas never use
	Now      func() time.Time
	// Standing asks the control plane whether the attempt with this task token is still waited for. A task can reach a host
	// long after its limit, when a broken connection mends: whatever stops or starts a VM asks first.
	Standing func(ctx context.Context, taskToken []byte) error

	turns turns
	gone  gone
}

// Register binds all host activities, short ones and bulk ones to their queue's worker: a queue of copies must never stand
// in front of a failover.
func (h *Host) Register(short, bulk contract.Registry) {
	contract.Snapshot.Register(short, h.snapshot)
	contract.Abandon.Register(short, h.abandon)
	contract.Settle.Register(short, h.settle)
	contract.Points.Register(short, h.points)
	contract.Discard.Register(short, h.discard)
	contract.Retire.Register(short, h.retire)
	contract.Materialize.Register(short, h.materialize)
	contract.Start.Register(short, h.start)
	contract.Confirm.Register(short, h.confirm)
	contract.Dismantle.Register(short, h.dismantle)
	contract.Observe.Register(short, h.observe)
	contract.Hold.Register(short, h.hold)
	contract.AwaitLease.Register(short, h.awaitLease)
	contract.Restart.Register(short, h.restart)
	contract.Fit.Register(short, h.fit)
	contract.Probe.Register(short, h.probe)
	contract.Seal.Register(short, h.seal)
	contract.Surrender.Register(short, h.surrender)
	contract.TakeUp.Register(short, h.takeUp)
	contract.Witness.Register(short, h.witness)
	contract.SalvageDisks.Register(short, h.salvage)
	contract.ListMarks.Register(short, h.marks)
	contract.Watch.Register(short, h.watch)
	contract.Inspect.Register(short, h.inspect)
	contract.Preflight.Register(short, h.preflight)

	contract.PauseGuest.Register(short, h.pauseGuest)
	contract.UnpauseGuest.Register(short, h.unpauseGuest)
	contract.TestBoot.Register(short, h.testBoot)
	contract.TestProbe.Register(short, h.testProbe)
	contract.TestClean.Register(short, h.testClean)

	contract.Seed.Register(bulk, h.seed)
	contract.Replicate.Register(bulk, h.replicate)
	contract.CaptureAndSend.Register(bulk, h.captureAndSend)
	contract.Verify.Register(bulk, h.verify)
	contract.Prune.Register(bulk, h.prune)
}

func (h *Host) admit(f contract.Fence) error {
	if err := h.gone.refuse(f.VM); err != nil {
		return err
	}
	if err := h.Floors.Admit(f.VM, f.Generation); err != nil {
		return err
	}
	err := h.gone.refuse(f.VM)
	if err != nil { // in this very moment: the floor is not to be there again
		_ = h.Floors.Forget(f.VM.UUID)
	}
	return err
}

// stillWanted refuses an order that came too late. Between the answer and the deed the order may still be withdrawn: whoever
// withdraws it makes good what was done (the hand-back starts what was stopped).
func (h *Host) stillWanted(ctx context.Context, f contract.Fence) error {
	err := h.Standing(ctx, activity.GetInfo(ctx).TaskToken)
	var gone *serviceerror.NotFound
	switch {
	case err == nil:
		return nil
	case errors.As(err, &gone):
		return model.Fail(model.StaleGeneration, err, "an order for generation %d came after its time and was not carried out", f.Generation).
			WithVM(f.VM.Name).WithHost(h.ID)
	}
	return model.Fail(model.Unreachable, err, "cannot ask the control plane whether this order still stands").WithVM(f.VM.Name).WithHost(h.ID)
}

// absent says that there was nothing to do.
func absent(err error) bool { return err != nil && model.KindOf(err) == model.NotFound }

// list makes an empty list of a missing one, so that JSON says [] and not null.
func list[T any](in []T) []T {
	if in == nil {
		return []T{}
	}
	return in
}
