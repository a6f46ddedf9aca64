package activities

import (
	"context"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// verifyProgress is the heartbeat of verify.
type verifyProgress struct {
	DoneBytes  int64 `json:"done_bytes"`
	TotalBytes int64 `json:"total_bytes"`
}

// verify proves what was received and commits it; a point that is committed already is success.
func (h *Host) verify(ctx context.Context, in contract.VerifyIn) (contract.VerifyOut, error) {
	b := startBeat(ctx)
	defer b.end()
	point, err := h.proveAndCommit(ctx, in, b)
	if err != nil {
		return contract.VerifyOut{}, toWire(err)
	}
	// The point is committed and stays so whatever follows: retention is tried again after the next one.
	_, _, _ = h.Store.Prune(ctx, in.VM, in.KeepLast)
	out := contract.VerifyOut{Point: point.PointRef, VerifiedAt: point.VerifiedAt, Points: 1}
	if points, err := h.Store.Points(ctx, in.VM); err == nil {
		out.Points = len(points)
	}
	if free, _, err := h.Store.Usage(); err == nil {
		out.StoreFree = free
	}
	return out, nil
}

func (h *Host) proveAndCommit(ctx context.Context, in contract.VerifyIn, b *beat) (model.Point, error) {
	if err := h.admit(in.Fence); err != nil {
		return model.Point{}, err
	}
	done, err := h.Store.Point(ctx, in.VM, in.Point)
	if err == nil {
		return done, nil
	}
	if !absent(err) {
		return model.Point{}, err
	}
	spec, err := h.Store.StagedSpec(ctx, in.VM, in.Point)
	if err != nil {
		return model.Point{}, err
	}
	receipt, err := h.Store.Prove(ctx, in.VM, in.Point, func(done, total int64) { b.set(verifyProgress{done, total}) })
	if err != nil {
		return model.Point{}, err
	}
	// Proving takes long: a takeover that began meanwhile has chosen its point, so nothing may be added under it.
	if err := h.admit(in.Fence); err != nil {
		return model.Point{}, err
	}
	return h.Store.Commit(ctx, receipt, manifest(in, spec.DomainXML, receipt))
}

func manifest(in contract.VerifyIn, domainXML string, r model.Receipt) model.Point {
	p := model.Point{
		Format: model.PointFormat, VM: in.VM, PointRef: in.Point, Parent: in.Parent.Seq, Primary: in.Primary,
		TakenAt: in.TakenAt, VerifiedAt: r.ProvedAt, Consistency: in.Consistency, Stall: in.StallMS, DomainXML: domainXML,
	}
	stats := map[string]contract.DiskStats{}
	for _, s := range in.Stats {
		stats[s.Target] = s
	}
	for _, d := range in.Disks {
		s := stats[d.Target]
		p.Disks = append(p.Disks, model.PointDisk{
			Target: d.Target, SourceFormat: d.Format, SourcePath: d.Path, Size: d.Size, Mode: d.Mode, Reason: d.Reason,
			DirtyBytes: d.DirtyBytes, ReadBytes: s.ReadBytes, ChangedBytes: s.ChangedBytes, SentBytes: s.SentBytes,
		})
	}
	return p
}
