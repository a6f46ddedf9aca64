package activities

import (
	"context"
	"fmt"
	"time"

	"understudy/internal/contract"
	"understudy/internal/lease"
	"understudy/internal/model"
)

// seal raises the floor and makes this host the candidate. The answer leaves only after that is on stable storage.
func (h *Host) seal(ctx context.Context, in contract.SealIn) (contract.SealOut, error) {
	if in.FloorOnly {
		h.gone.back(in.VM.UUID)
		return contract.SealOut{Floor: in.Generation, Terms: h.Leases.Terms()}, toWire(h.Floors.Raise(in.VM, in.Generation, in.Attempt))
	}
	before, err := h.Leases.Seal(ctx, in.VM, in.Generation, in.Attempt)
	if err != nil {
		return contract.SealOut{}, toWire(err)
	}
	h.Watcher.Yield(in.VM, in.Generation)
	out := contract.SealOut{Floor: before.Generation, Terms: h.Leases.Terms()}
	d, err := h.Domains.Domain(ctx, in.VM.UUID)
	if absent(err) {
		return out, nil
	}
	out.Running = err == nil && d.State.Active()
	return out, toWire(err)
}

// surrender is evidence only in this order: the floor first, so that nothing here starts the VM again; then off, and seen
// to be off.
func (h *Host) surrender(ctx context.Context, in contract.SurrenderIn) (contract.EvidenceOut, error) {
	b := startBeat(ctx)
	defer b.end()
	if err := h.stillWanted(ctx, in.Fence); err != nil {
		return contract.EvidenceOut{}, toWire(err)
	}
	if in.Paused { // one that went on keeps its lease too
		if err := h.Restorer.MayGiveUp(ctx, in.VM, in.Attempt); err != nil {
			return contract.EvidenceOut{}, toWire(err)
		}
	}
	if err := h.Leases.Surrender(in.VM, in.Generation, in.Attempt); err != nil {
		return contract.EvidenceOut{}, toWire(err)
	}
	h.Watcher.Yield(in.VM, in.Generation)
	leave, err := h.turns.take(ctx, in.VM)
	if err != nil {
		return contract.EvidenceOut{}, toWire(err)
	}
	defer leave()
	if err := h.stopCopy(ctx, in); err != nil {
		return contract.EvidenceOut{}, toWire(err)
	}
	if err := h.Leases.Stop(ctx, in.VM.UUID); err != nil {
		return contract.EvidenceOut{}, toWire(err)
	}
	return contract.EvidenceOut{Evidence: model.Evidence{
		Kind: model.EvidenceSurrendered, Generation: in.Generation, By: string(h.ID),
		Detail: fmt.Sprintf("floor %d is durable, and libvirt on %s says that no copy runs", in.Generation, h.ID), At: h.Now().UTC(),
	}}, nil
}

func (h *Host) stopCopy(ctx context.Context, in contract.SurrenderIn) error {
	switch {
	case in.Demote:
		_, err := h.Restorer.Demote(ctx, in.VM)
		if err == nil {
			// What cannot be removed now keeps nobody from anything; `understudy marks` shows it.
			_, _ = h.Snapshot.Leave(ctx, in.VM)
		}
		return err
	case in.Paused:
		return h.Restorer.SurrenderPaused(ctx, in.VM, in.Attempt)
	}
	return h.Restorer.Surrender(ctx, in.VM)
}

// takeUp lets the last holder go on after a takeover was rolled back, under a generation above it: from here a late order of
// that takeover is refused. What it had stopped is started again.
func (h *Host) takeUp(ctx context.Context, in contract.TakeUpIn) (contract.TakeUpOut, error) {
	b := startBeat(ctx)
	defer b.end()
	leave, err := h.turns.take(ctx, in.VM)
	if err != nil {
		return contract.TakeUpOut{}, toWire(err)
	}
	defer leave()
	if err := h.stillWanted(ctx, in.Fence); err != nil {
		return contract.TakeUpOut{}, toWire(err)
	}
	if err := h.admit(in.Fence); err != nil {
		return contract.TakeUpOut{}, toWire(err)
	}
	if err := h.first(ctx, lease.Hold{VM: in.VM, Generation: in.Generation, Mode: in.Mode, Grantors: in.Grantors, Action: in.Action}); err != nil {
		return contract.TakeUpOut{}, toWire(err)
	}
	began := h.Now()
	started, err := h.Restorer.TakeUp(ctx, in.VM)
	if err != nil {
		return contract.TakeUpOut{}, toWire(err)
	}
	if started {
		h.Watcher.Serve(Watched{VM: in.VM, Generation: in.Generation, Started: began})
	}
	return contract.TakeUpOut{Started: started}, nil
}

const witnessLimit = 4 * time.Second

// witness never fails: that nobody answers is its answer.
func (h *Host) witness(ctx context.Context, in contract.WitnessIn) (contract.WitnessOut, error) {
	ctx, cancel := context.WithTimeout(ctx, witnessLimit)
	defer cancel()
	began := time.Now()
	got, err := h.Link.Ping(ctx, in.LinkAddress)
	took := time.Since(began)
	switch {
	case err != nil:
		return contract.WitnessOut{Detail: fmt.Sprintf("%s cannot reach %s at %q: %v", h.ID, in.Host, in.LinkAddress, err)}, nil
	case got != in.Host:
		return contract.WitnessOut{Detail: fmt.Sprintf("%s asked for %s at %q and %q answered", h.ID, in.Host, in.LinkAddress, got)}, nil
	}
	return contract.WitnessOut{
		Alive: true, Took: took, Detail: fmt.Sprintf("the agent of %s answered %s in %s", in.Host, h.ID, took.Round(time.Millisecond)),
	}, nil
}
