package activities

import (
	"context"

	"understudy/internal/contract"
	"understudy/internal/lease"
)

// restart is recovery in place: the start needs a fresh grant of the generation that the VM has, like every start.
func (h *Host) restart(ctx context.Context, in contract.RestartIn) (contract.RestartOut, error) {
	b := startBeat(ctx)
	defer b.end()
	leave, err := h.turns.take(ctx, in.VM)
	if err != nil {
		return contract.RestartOut{}, toWire(err)
	}
	defer leave()
	if err := h.stillWanted(ctx, in.Fence); err != nil {
		return contract.RestartOut{}, toWire(err)
	}
	if err := h.admit(in.Fence); err != nil {
		return contract.RestartOut{}, toWire(err)
	}
	if err := h.first(ctx, lease.Hold{VM: in.VM, Generation: in.Generation, Mode: in.Mode, Grantors: in.Grantors, Action: in.Action}); err != nil {
		return contract.RestartOut{}, toWire(err)
	}
	at, restarted, err := h.Restorer.Again(ctx, in.VM)
	return contract.RestartOut{StartedAt: at, Restarted: restarted}, toWire(err)
}
