package activities

import (
	"context"
	"time"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// dirtyLimit bounds a question that QEMU has to answer: one that stands still does not.
const dirtyLimit = 3 * time.Second

func (h *Host) observe(ctx context.Context, in contract.ObserveIn) (model.Observation, error) {
	if err := h.admit(in.Fence); err != nil {
		return model.Observation{}, toWire(err)
	}
	h.Watcher.Serve(Watched{VM: in.VM, Generation: in.Generation, RPO: in.RPO, Committed: in.Committed})
	o, err := h.see(ctx, in.VM, in.Committed)
	return o, toWire(err)
}

func (h *Host) see(ctx context.Context, vm model.VMRef, committed model.PointRef) (model.Observation, error) {
	o, err := h.Watcher.Observe(ctx, vm)
	if err != nil {
		return model.Observation{}, err
	}
	o.Terms = h.Leases.Terms()
	o.DirtyBytes, o.DirtyAt = -1, nil
	if o.Running && !committed.IsZero() {
		// A bitmap that cannot be asked is not a failure of observing: the next capture finds out why.
		at := h.Now().UTC()
		limit, cancel := context.WithTimeout(ctx, dirtyLimit)
		defer cancel()
		if n, err := h.Snapshot.Dirty(limit, vm, committed); err == nil {
			o.DirtyBytes, o.DirtyAt = n, &at
		}
	}
	return o, nil
}
