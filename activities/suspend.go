package activities

import (
	"context"

	"understudy/internal/contract"
)

// pauseGuest stops the guest for a switchover. The agent lets it go on by itself when the time is over: a control plane that
// is lost must not leave it paused.
func (h *Host) pauseGuest(ctx context.Context, in contract.PauseGuestIn) (contract.PauseGuestOut, error) {
	b := startBeat(ctx)
	defer b.end()
	if err := h.admit(in.Fence); err != nil {
		return contract.PauseGuestOut{}, toWire(err)
	}
	if err := h.stillWanted(ctx, in.Fence); err != nil {
		return contract.PauseGuestOut{}, toWire(err)
	}
	at, err := h.Restorer.Pause(ctx, in.VM, in.Attempt, in.MaxPause)
	return contract.PauseGuestOut{PausedAt: at}, toWire(err)
}

// unpauseGuest lets a guest go on that was paused for a switchover.
func (h *Host) unpauseGuest(ctx context.Context, in contract.UnpauseGuestIn) (contract.None, error) {
	b := startBeat(ctx)
	defer b.end()
	if err := h.admit(in.Fence); err != nil {
		return contract.None{}, toWire(err)
	}
	return contract.None{}, toWire(h.Restorer.Unpause(ctx, in.VM))
}
