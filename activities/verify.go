package activities

import (
	"context"
	"fmt"
	"time"

	"understudy/internal/contract"
	"understudy/internal/decide/retention"
	"understudy/internal/model"
	"understudy/internal/restore"
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
	point, took, err := h.proveAndCommit(ctx, in, b)
	if err != nil {
		return contract.VerifyOut{}, toWire(err)
	}
	// The point is committed and stays so whatever follows: retention is tried again after the next one.
	h.dropFormerLives(ctx, in)
	h.retain(ctx, in)
	out := contract.VerifyOut{Point: point.PointRef, VerifiedAt: point.VerifiedAt, Points: 1, ProveTook: took, AtRest: h.Self.AtRest()}
	if points, err := h.Store.Points(ctx, in.VM); err == nil {
		out.Points = len(points)
	}
	if free, _, err := h.Store.Usage(); err == nil {
		out.StoreFree = free
	}
	return out, nil
}

// retain drops the points that no rule keeps. Postponed it still happens before there are twice as many as are kept.
func (h *Host) retain(ctx context.Context, in contract.VerifyIn) {
	if in.PostponeMerges {
		if points, err := h.Store.Points(ctx, in.VM); err == nil && len(points) <= 2*(in.KeepLast+in.Hourly+in.Daily) {
			return
		}
	}
	_, _, _ = h.Store.PruneTo(ctx, in.VM, retention.Rules{Last: in.KeepLast, Hourly: in.Hourly, Daily: in.Daily})
}

// dropFormerLives removes the overlays that the VM ran from here in earlier generations. They are its rescue copy until the
// newer points alone are what the policy asks for; from then on their holds would only keep retention from working. One
// that is in use stays.
func (h *Host) dropFormerLives(ctx context.Context, in contract.VerifyIn) {
	if in.KeepRescue {
		return
	}
	holds, err := h.Store.Holds(ctx, in.VM)
	if err != nil || len(holds) == 0 {
		return
	}
	points, err := h.Store.Points(ctx, in.VM)
	if err != nil {
		return
	}
	for _, hold := range holds {
		var g model.Generation
		if _, err := fmt.Sscanf(hold.Name, "g%d", &g); err != nil || restore.Set(g) != hold.Name || g >= in.Generation {
			continue
		}
		newer := 0
		for _, p := range points {
			if p.Generation > g {
				newer++
			}
		}
		if newer >= in.KeepLast {
			_ = h.Store.Deactivate(ctx, in.VM, hold.Name) // tried again after the next point
		}
	}
}

func (h *Host) proveAndCommit(ctx context.Context, in contract.VerifyIn, b *beat) (point model.Point, took time.Duration, err error) {
	if err := h.admit(in.Fence); err != nil {
		return model.Point{}, 0, err
	}
	done, err := h.Store.Point(ctx, in.VM, in.Point)
	if err == nil {
		return done, 0, nil
	}
	if !absent(err) {
		return model.Point{}, 0, err
	}
	spec, err := h.Store.StagedSpec(ctx, in.VM, in.Point)
	if err != nil {
		return model.Point{}, 0, err
	}
	if spec.Sender != "" && spec.Sender != in.Primary {
		return model.Point{}, 0, model.Fail(model.Refused, nil, "the point was sent by %s, and the VM is active on %s", spec.Sender, in.Primary).WithVM(in.VM.Name)
	}
	began := h.Now()
	receipt, err := h.Store.Prove(ctx, in.VM, in.Point, func(done, total int64) { b.set(verifyProgress{done, total}) })
	if err != nil {
		return model.Point{}, 0, err
	}
	// Proving takes long: a takeover that began meanwhile has chosen its point, so nothing may be added under it.
	if err := h.admit(in.Fence); err != nil {
		return model.Point{}, 0, err
	}
	took = h.Now().Sub(began)
	point, err = h.Store.Commit(ctx, receipt, manifest(in, spec.DomainXML, receipt))
	return point, took, err
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
