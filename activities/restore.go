package activities

import (
	"context"

	"understudy/internal/contract"
	"understudy/internal/lease"
)

func (h *Host) materialize(ctx context.Context, in contract.MaterializeIn) (contract.MaterializeOut, error) {
	b := startBeat(ctx)
	defer b.end()
	if err := h.admit(in.Fence); err != nil {
		return contract.MaterializeOut{}, toWire(err)
	}
	disks, err := h.Restorer.Materialize(ctx, in.VM, in.Point, in.Generation)
	return contract.MaterializeOut{Point: in.Point, Disks: list(disks)}, toWire(err)
}

func (h *Host) start(ctx context.Context, in contract.StartIn) (contract.StartOut, error) {
	b := startBeat(ctx)
	defer b.end()
	leave, err := h.turns.take(ctx, in.VM)
	if err != nil {
		return contract.StartOut{}, toWire(err)
	}
	defer leave()
	if err := h.admit(in.Fence); err != nil {
		return contract.StartOut{}, toWire(err)
	}
	if err := h.stillWanted(ctx, in.Fence); err != nil {
		return contract.StartOut{}, toWire(err)
	}
	if err := h.first(ctx, lease.Hold{VM: in.VM, Generation: in.Generation, Mode: in.Mode, Grantors: in.Grantors, Action: in.Action}); err != nil {
		return contract.StartOut{}, toWire(err)
	}
	began := h.Now()
	at, err := h.Restorer.Start(ctx, in.VM, in.Point, in.Generation, in.Networks)
	if err != nil {
		return contract.StartOut{}, toWire(err)
	}
	if at.Before(began) { // it runs since an earlier attempt
		began = at
	}
	h.Watcher.Serve(Watched{VM: in.VM, Generation: in.Generation, Started: began})
	return contract.StartOut{StartedAt: at}, nil
}

func (h *Host) confirm(ctx context.Context, in contract.ConfirmIn) (contract.ConfirmOut, error) {
	b := startBeat(ctx)
	defer b.end()
	if err := h.admit(in.Fence); err != nil {
		return contract.ConfirmOut{}, toWire(err)
	}
	running, agent, detail, err := h.Restorer.Confirm(ctx, in.VM, in.For)
	return contract.ConfirmOut{Running: running, GuestAgent: agent, Detail: detail}, toWire(err)
}

func (h *Host) dismantle(ctx context.Context, in contract.StartIn) (contract.None, error) {
	b := startBeat(ctx)
	defer b.end()
	leave, err := h.turns.take(ctx, in.VM)
	if err != nil {
		return contract.None{}, toWire(err)
	}
	defer leave()
	if err := h.admit(in.Fence); err != nil {
		return contract.None{}, toWire(err)
	}
	if err := h.stillWanted(ctx, in.Fence); err != nil {
		return contract.None{}, toWire(err)
	}
	h.Watcher.Yield(in.VM, in.Generation+1)
	if err := h.Restorer.Dismantle(ctx, in.VM, in.Generation); err != nil {
		return contract.None{}, toWire(err)
	}
	return contract.None{}, toWire(h.Leases.Release(ctx, in.VM, in.Generation))
}
