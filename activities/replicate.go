package activities

import (
	"context"
	"sync"
	"time"

	"understudy/internal/blockio"
	"understudy/internal/contract"
	"understudy/internal/model"
	"understudy/internal/replicate"
)

// replicate may be repeated: the standby says what it holds already. Nothing stays open when it returns; the snapshot's own
// job goes on until settle or abandon.
func (h *Host) replicate(ctx context.Context, in contract.ReplicateIn) (contract.ReplicateOut, error) {
	b := startBeat(ctx)
	defer b.end()
	out, err := h.send(ctx, in, b)
	return out, toWire(err)
}

func (h *Host) send(ctx context.Context, in contract.ReplicateIn, b *beat) (contract.ReplicateOut, error) {
	if err := h.admit(in.Fence); err != nil {
		return contract.ReplicateOut{}, err
	}
	taken, err := h.Snapshot.Get(ctx, in.VM, in.Point)
	if err != nil {
		return contract.ReplicateOut{}, err
	}
	if err := h.mustAnswer(ctx, in.LinkAddress, in.Standby); err != nil {
		return contract.ReplicateOut{}, err.WithVM(in.VM.Name)
	}
	open := func(ctx context.Context, target string) (blockio.Source, error) {
		return h.Snapshot.Open(ctx, in.VM, in.Point, target)
	}
	started := h.Now()
	share := h.Shares.Join(transferOf(in, taken.Disks))
	looked := int64(0)
	var granted Granted
	leave := sync.OnceFunc(func() { granted = share.Leave(looked) })
	defer leave()
	before, done := h.before(ctx, in)
	defer done()
	res, err := h.Link.Send(ctx, in.LinkAddress, taken.DomainXML, open, replicate.Request{
		VM: in.VM, Point: in.Point, Parent: in.Parent, Capture: taken.TakenAt.UTC().Format(time.RFC3339Nano),
		Disks: taken.Disks, Compression: in.Compression, MaxBandwidth: in.MaxBandwidth, Lane: share.Lane(), Before: before,
		Reread: in.Reread,
	}, func(p replicate.Progress) {
		share.Progress(p)
		b.set(wireProgress(p, h.Now().Sub(started)))
	})
	if err != nil {
		return contract.ReplicateOut{}, err
	}
	out := contract.ReplicateOut{Disks: []contract.DiskStats{}, SentBytes: res.SentBytes, Took: res.Took, Resumed: res.Resumed, Compared: before != nil}
	for _, d := range res.Disks {
		out.Disks = append(out.Disks, contract.DiskStats(d))
		looked += d.ReadBytes
	}
	leave()
	out.Granted, out.Limited, out.LinkUse, out.CPU = granted.Rate, granted.Limited, granted.LinkUse, granted.CPU
	if granted.Limited {
		out.LimitedBy = granted.Reason
	}
	return out, nil
}

// before opens the disks as the VM came here with them. Without them nothing is counted: that is no reason to send nothing.
func (h *Host) before(ctx context.Context, in contract.ReplicateIn) (map[string]blockio.Source, func()) {
	if in.From.IsZero() {
		return nil, func() {}
	}
	disks, closing, err := h.Store.OpenPoint(ctx, in.VM, in.From)
	if err != nil {
		return nil, func() {}
	}
	return disks, closing
}

func transferOf(in contract.ReplicateIn, disks []model.SnapshotDisk) Transfer {
	t := Transfer{
		VM: in.VM, Point: in.Point, Tier: in.Tier, RPO: in.RPO, Demand: in.Demand, Cap: in.MaxBandwidth, Disks: len(disks), Seed: in.Parent.IsZero() || !in.From.IsZero(),
	}
	if t.Tier == "" {
		t.Tier = model.DefaultPolicy().Tier
	}
	for _, d := range disks {
		if d.Mode == model.ModeDelta && d.DirtyBytes >= 0 {
			t.Look += d.DirtyBytes
		} else {
			t.Look += d.Size
		}
	}
	return t
}

// mustAnswer refuses to send a VM's disks to whoever took over an address.
func (h *Host) mustAnswer(ctx context.Context, address string, host model.HostID) *model.Failure {
	got, err := h.Link.Ping(ctx, address)
	switch {
	case err != nil:
		return model.Fail(model.LinkDown, err, "the receiver of %s at %q does not answer", host, address).
			WithHost(h.ID).WithTry("understudy doctor --host " + string(host))
	case got != host:
		return model.Fail(model.LinkDown, nil, "at %q answers %q, not %q", address, got, host).
			WithHost(h.ID).WithTry("understudy hosts, and look at --link-advertise of both")
	}
	return nil
}

func wireProgress(p replicate.Progress, took time.Duration) contract.ReplicateProgress {
	out := contract.ReplicateProgress{Disk: p.Disk, DoneBytes: p.DoneBytes, TotalBytes: p.TotalBytes, SentBytes: p.SentBytes}
	if s := took.Seconds(); s > 0 {
		out.Rate = float64(p.DoneBytes) / s
	}
	return out
}
