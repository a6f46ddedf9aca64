package activities

import (
	"time"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// Host holds the activities of one libvirt host. Every one that acts for a VM first asks Floors whether its generation is
// still in power.
type Host struct {
	ID       model.HostID
	Floors   Floors
	Snapshot Snapshots
	Link     Link
	Store    Store
	Restorer Restorer
	Domains  Domains
	Watcher  Watcher
	Self     Self
	Reserve  int64 // bytes of the store's file system that replicas never use
	Now      func() time.Time
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
	contract.Seal.Register(short, h.seal)
	contract.Surrender.Register(short, h.surrender)
	contract.Witness.Register(short, h.witness)
	contract.Watch.Register(short, h.watch)
	contract.Inspect.Register(short, h.inspect)
	contract.Preflight.Register(short, h.preflight)

	contract.Replicate.Register(bulk, h.replicate)
	contract.Verify.Register(bulk, h.verify)
	contract.Prune.Register(bulk, h.prune)
}

func (h *Host) admit(f contract.Fence) error { return h.Floors.Admit(f.VM, f.Generation) }

// absent says that there was nothing to do.
func absent(err error) bool { return err != nil && model.KindOf(err) == model.NotFound }

// list makes an empty list of a missing one, so that JSON says [] and not null.
func list[T any](in []T) []T {
	if in == nil {
		return []T{}
	}
	return in
}
