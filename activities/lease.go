package activities

import (
	"context"
	"time"

	"understudy/internal/contract"
	"understudy/internal/lease"
	"understudy/internal/model"
)

// Leases is what this host may run, and until when. references/single-writer.md is the protocol.
type Leases interface {
	Told(ctx context.Context, k lease.Hold) (model.LeaseTerms, error)
	Take(ctx context.Context, k lease.Hold) error
	MayRun(uuid string, g model.Generation) error
	Ungate(ctx context.Context, vm model.VMRef) error
	Seal(ctx context.Context, vm model.VMRef, g model.Generation, attempt string) (lease.Entry, error)
	AwaitLease(ctx context.Context, vm model.VMRef, g model.Generation, attempt string, wait time.Duration) (detail string, err error)
	Surrender(vm model.VMRef, g model.Generation, attempt string) error
	// Stop kills what was given up, also a frozen copy or one that libvirt does not know, and proves it gone.
	Stop(ctx context.Context, uuid string) error
	// Release lets go of a generation whose start was taken back.
	Release(ctx context.Context, vm model.VMRef, g model.Generation) error
	Drop(ctx context.Context, vm model.VMRef) error
	Terms() model.LeaseTerms
}

func (h *Host) hold(ctx context.Context, in contract.HoldIn) (contract.HoldOut, error) {
	b := startBeat(ctx)
	defer b.end()
	terms, err := h.Leases.Told(ctx, lease.Hold{VM: in.VM, Generation: in.Generation, Mode: in.Mode, Grantors: in.Grantors, Action: in.Action})
	return contract.HoldOut{Terms: terms}, toWire(err)
}

// awaitLease is evidence by this host's own clock, after its own seal.
func (h *Host) awaitLease(ctx context.Context, in contract.AwaitLeaseIn) (contract.EvidenceOut, error) {
	b := startBeat(ctx)
	defer b.end()
	detail, err := h.Leases.AwaitLease(ctx, in.VM, in.Generation, in.Attempt, in.Wait)
	if err != nil {
		return contract.EvidenceOut{}, toWire(err)
	}
	return contract.EvidenceOut{Evidence: model.Evidence{
		Kind: model.EvidenceLeaseExpired, Generation: in.Generation, By: string(h.ID), Detail: detail, At: h.Now().UTC(),
	}}, nil
}

// first is the grant that a start needs. Without a grantor at the control plane its permit is all there is.
func (h *Host) first(ctx context.Context, k lease.Hold) error {
	for _, g := range k.Grantors {
		if g.Control() {
			if err := h.Leases.Take(ctx, k); err != nil {
				return err
			}
			return h.Leases.MayRun(k.VM.UUID, k.Generation)
		}
	}
	return h.Leases.Ungate(ctx, k.VM)
}
