package activities

import (
	"context"

	"understudy/internal/contract"
	"understudy/internal/model"
	"understudy/internal/recoverypoint"
)

// seed makes a base of the disks that a VM left on this host. That there is nothing to make it of is an answer.
func (h *Host) seed(ctx context.Context, in contract.SeedIn) (contract.SeedOut, error) {
	b := startBeat(ctx)
	defer b.end()
	out, err := h.makeSeed(ctx, in, b)
	return out, toWire(err)
}

func (h *Host) makeSeed(ctx context.Context, in contract.SeedIn, b *beat) (contract.SeedOut, error) {
	var out contract.SeedOut
	if err := h.admit(in.Fence); err != nil {
		return out, err
	}
	left, rescue, err := h.Restorer.LeftBehind(in.VM)
	out.Rescue = rescue
	if err != nil {
		return out, err
	}
	disks, why := match(left, in.Disks)
	if why != "" {
		out.Skipped = why
		return out, nil
	}
	// One whose answer was lost has another number, and is as good.
	if out.Point, err = h.Store.SeedOf(ctx, in.VM, in.Generation); err != nil || !out.Point.IsZero() {
		out.Seeded = err == nil
		return out, err
	}
	began := h.Now()
	out.Bytes, err = h.Store.Fill(ctx, in.VM, in.Point, disks, func(done, total int64) { b.set(verifyProgress{done, total}) })
	switch model.KindOf(err) {
	case model.Unsupported, model.TargetFull: // a damaged image, or no room for a base beside it
		out.Skipped = err.Error()
		return out, nil
	default:
		if err != nil {
			return out, err
		}
	}
	receipt, err := h.Store.Prove(ctx, in.VM, in.Point, func(done, total int64) { b.set(verifyProgress{done, total}) })
	if err != nil {
		return out, err
	}
	if err := h.admit(in.Fence); err != nil {
		return out, err
	}
	p := model.Point{
		Format: model.PointFormat, VM: in.VM, PointRef: in.Point, Primary: h.ID, TakenAt: began.UTC(), VerifiedAt: receipt.ProvedAt,
		Consistency: model.CrashConsistent, Seed: true,
	}
	for _, d := range disks {
		p.Disks = append(p.Disks, model.PointDisk{Target: d.Target, SourceFormat: d.Format, SourcePath: d.Path, Mode: model.ModeFull, Reason: "left here by the VM"})
	}
	_, err = h.Store.Commit(ctx, receipt, p)
	out.Seeded, out.Point, out.Took = err == nil, in.Point, h.Now().Sub(began)
	return out, err
}

// match finds the disks that the VM has now among those that it left.
func match(left []model.Disk, now []model.Disk) ([]recoverypoint.Left, string) {
	if len(left) == 0 {
		return nil, "the VM left nothing here"
	}
	var disks []recoverypoint.Left
	for _, want := range now {
		found := false
		for _, d := range left {
			if d.Target == want.Target && !found {
				disks, found = append(disks, recoverypoint.Left{Target: d.Target, Path: d.Path, Format: d.Format}), true
			}
		}
		if !found {
			return nil, "the VM left no disk " + want.Target + " here"
		}
	}
	return disks, ""
}
