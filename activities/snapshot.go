package activities

import (
	"context"

	"understudy/internal/contract"
	"understudy/internal/model"
	"understudy/internal/snapshot"
)

// snapshot is repeated under the same point after a lost answer; the stage then gives the open one again.
func (h *Host) snapshot(ctx context.Context, in contract.SnapshotIn) (contract.SnapshotOut, error) {
	b := startBeat(ctx)
	defer b.end()
	out, err := h.take(ctx, in)
	return out, toWire(err)
}

func (h *Host) take(ctx context.Context, in contract.SnapshotIn) (contract.SnapshotOut, error) {
	if err := h.admit(in.Fence); err != nil {
		return contract.SnapshotOut{}, err
	}
	point := model.PointRef{Generation: in.Generation, Seq: in.Seq}
	h.Watcher.Serve(Watched{VM: in.VM, Generation: in.Generation, RPO: in.RPO, Committed: in.Parent})
	h.Watcher.Capturing(ctx, in.VM, point)
	taken, err := h.Snapshot.Take(ctx, snapshot.Request{
		VM: in.VM, Point: point, Parent: in.Parent, Freeze: in.Freeze, ForceResync: in.ForceResync,
		Wanted: func() error { return h.admit(in.Fence) }, // it may have waited for the end of the protection
	})
	if err != nil {
		if h.gone.refuse(in.VM) != nil {
			_ = h.Watcher.Forget(in.VM)
		}
		h.Watcher.Abandoned(in.VM, point)
		return contract.SnapshotOut{}, err
	}
	out := contract.SnapshotOut{
		Point: point, TakenAt: taken.TakenAt, Consistency: taken.Consistency, Disks: list(taken.Disks),
		StallMS: float64(taken.Stall.Microseconds()) / 1000, Origin: h.Watcher.Captured(in.VM, point, taken.TakenAt),
	}
	out.WrittenBytes = h.Watcher.CapturedBytes(in.VM, point)
	for _, d := range taken.Disks {
		out.DirtyBytes += d.DirtyBytes
	}
	return out, nil
}

// abandon gives the capture's writes back to the watcher first: they are not on the standby, whatever libvirt answers.
func (h *Host) abandon(ctx context.Context, in contract.PointIn) (contract.SettleOut, error) {
	b := startBeat(ctx)
	defer b.end()
	if err := h.admit(in.Fence); err != nil {
		return contract.SettleOut{}, toWire(err)
	}
	h.Watcher.Abandoned(in.VM, in.Point)
	left, err := h.Snapshot.Abandon(ctx, in.VM, in.Point)
	return contract.SettleOut{Leftovers: list(left)}, toWire(err)
}

// settle moves the primary's cursor: only the committed point's checkpoint stays. The look that may go with it tells how things
// are after that; without one the protection looks by itself.
func (h *Host) settle(ctx context.Context, in contract.SettleIn) (contract.SettleOut, error) {
	b := startBeat(ctx)
	defer b.end()
	if err := h.admit(in.Fence); err != nil {
		return contract.SettleOut{}, toWire(err)
	}
	if in.Look {
		h.Watcher.Answering(in.VM, in.Point)
	}
	h.Watcher.Verified(in.VM, in.Point)
	left, err := h.Snapshot.Settle(ctx, in.VM, in.Point)
	out := contract.SettleOut{Leftovers: list(left)}
	if err == nil && in.Look {
		if o, err := h.see(ctx, in.VM, in.Point); err == nil {
			out.Observed = &o
		}
	}
	return out, toWire(err)
}
