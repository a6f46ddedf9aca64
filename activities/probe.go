package activities

import (
	"context"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// fit looks whether a point can be started here. It is asked before a claim, so it asks for no generation.
func (h *Host) fit(ctx context.Context, in contract.FitIn) (contract.FitOut, error) {
	if err := (model.Policy{EncryptionAtRest: in.EncryptionAtRest}).RefuseAtRest(in.VM.Name, h.ID, h.Self.AtRest()); err != nil {
		return contract.FitOut{}, toWire(err)
	}
	notes, err := h.Restorer.Fit(ctx, in.VM, in.Point, in.Networks)
	return contract.FitOut{Notes: list(notes)}, toWire(err)
}

// probe asks the guest of a started VM whether it serves.
func (h *Host) probe(ctx context.Context, in contract.ProbeIn) (contract.ProbeOut, error) {
	b := startBeat(ctx)
	defer b.end()
	if err := h.admit(in.Fence); err != nil {
		return contract.ProbeOut{}, toWire(err)
	}
	by, err := h.Restorer.Probe(ctx, in.VM, in.Probes)
	return contract.ProbeOut{Answered: by}, toWire(err)
}
