package activities

import (
	"context"
	"fmt"

	"understudy/internal/contract"
	"understudy/internal/decide/retention"
)

func (h *Host) prune(ctx context.Context, in contract.PruneIn) (contract.PruneOut, error) {
	b := startBeat(ctx)
	defer b.end()
	if err := h.admit(in.Fence); err != nil {
		return contract.PruneOut{}, toWire(err)
	}
	dropped, postponed, err := h.Store.PruneTo(ctx, in.VM, retention.Rules{Last: in.KeepLast, Hourly: in.Hourly, Daily: in.Daily})
	return contract.PruneOut{Dropped: list(dropped), Postponed: postponed}, toWire(err)
}

func (h *Host) points(ctx context.Context, in contract.PointsIn) (contract.PointsOut, error) {
	points, err := h.Store.Points(ctx, in.VM)
	out := contract.PointsOut{Points: []contract.PointView{}}
	for _, p := range points {
		// A size that cannot be asked must not hide the point.
		bytes, _ := h.Store.BytesOnDisk(ctx, in.VM, p.PointRef)
		out.Points = append(out.Points, contract.PointView{
			PointRef: p.PointRef, Parent: p.Parent, Primary: p.Primary, TakenAt: p.TakenAt, VerifiedAt: p.VerifiedAt,
			Consistency: p.Consistency, StallMS: p.Stall, Disks: list(p.Disks), BytesOnDisk: bytes,
		})
	}
	return out, toWire(err)
}

func (h *Host) discard(ctx context.Context, in contract.PointIn) (contract.None, error) {
	b := startBeat(ctx)
	defer b.end()
	err := h.admit(in.Fence)
	if err == nil {
		err = h.Store.Discard(ctx, in.VM, in.Point)
	}
	if absent(err) {
		err = nil
	}
	return contract.None{}, toWire(err)
}

// retire removes our marks. What cannot be removed is listed, and the floor stays with it: it is the last to go.
func (h *Host) retire(ctx context.Context, in contract.RetireIn) (contract.RetireOut, error) {
	b := startBeat(ctx)
	defer b.end()
	h.gone.add(in.VM.UUID)
	left, err := h.Snapshot.Retire(ctx, in.VM)
	if err != nil && !absent(err) {
		return contract.RetireOut{Leftovers: list(left)}, toWire(err)
	}
	keep := func(what string, err error) {
		if err != nil && !absent(err) {
			left = append(left, fmt.Sprintf("%s on %s: %v", what, h.ID, err))
		}
	}
	keep("the watch list's entry", h.Watcher.Forget(in.VM))
	keep("the restorer's record", h.Restorer.Forget(in.VM))
	if in.PurgeReplica {
		keep("the replica", h.Store.Remove(ctx, in.VM))
	}
	if len(left) == 0 {
		keep("the lease", h.Leases.Drop(ctx, in.VM))
	}
	return contract.RetireOut{Leftovers: list(left)}, nil
}
