package activities

import (
	"context"
	"errors"
	"fmt"
	"time"

	"understudy/internal/contract"
	"understudy/internal/model"
	"understudy/internal/replicate"
	"understudy/internal/snapshot"
)

// Offline reads the disks of VMs that are off.
type Offline interface {
	Offline(ctx context.Context, r snapshot.Request) (*snapshot.Offline, error)
}

// salvage sends the last writes of a VM that was proved off to the standby, under the generation of the takeover. It only
// reads here, and what it sends is a point only when the standby has proved it.
func (h *Host) salvage(ctx context.Context, in contract.SalvageIn) (contract.SalvageOut, error) {
	b := startBeat(ctx)
	defer b.end()
	ctx, cancel := context.WithTimeoutCause(ctx, in.Budget, errBudget)
	defer cancel()
	out, err := h.sendSalvage(ctx, in, b)
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, errBudget) {
		err = model.Fail(model.Refused, nil, "the disks cannot be read and sent within %s", in.Budget).WithVM(in.VM.Name).WithHost(h.ID)
	}
	return out, toWire(err)
}

var errBudget = fmt.Errorf("the budget is used up")

func (h *Host) sendSalvage(ctx context.Context, in contract.SalvageIn, b *beat) (contract.SalvageOut, error) {
	var out contract.SalvageOut
	if err := h.admit(in.Fence); err != nil {
		return out, err
	}
	reader, ok := h.Snapshot.(Offline)
	if !ok {
		return out, model.Fail(model.Unsupported, nil, "disks of stopped VMs are not read here").WithHost(h.ID)
	}
	if err := h.mustAnswer(ctx, in.LinkAddress, in.Standby); err != nil {
		return out, err.WithVM(in.VM.Name)
	}
	disks, err := reader.Offline(ctx, snapshot.Request{VM: in.VM, Point: in.Point, Parent: in.Parent})
	if err != nil {
		return out, err
	}
	defer disks.Close() // reading only: how it ends changes nothing
	share := h.Shares.Join(Transfer{VM: in.VM, Tier: in.Tier, RPO: in.RPO, Disks: len(disks.Disks)})
	looked := int64(0)
	defer func() { share.Leave(looked) }()
	began := h.Now()
	ctx, hopeless := context.WithCancelCause(ctx)
	defer hopeless(nil)
	res, err := h.Link.Send(ctx, in.LinkAddress, disks.DomainXML, disks.Open, replicate.Request{
		VM: in.VM, Point: in.Point, Parent: in.Parent, Capture: "salvage " + disks.TakenAt.Format(time.RFC3339Nano),
		Disks: disks.Disks, Compression: in.Compression, Lane: share.Lane(),
	}, func(p replicate.Progress) {
		share.Progress(p)
		took := h.Now().Sub(began)
		b.set(wireProgress(p, took))
		if !inTime(p, took, in.Budget) {
			hopeless(errBudget)
		}
	})
	if err != nil {
		if errors.Is(context.Cause(ctx), errBudget) {
			err = model.Fail(model.Refused, nil, "the disks cannot be read and sent within %s", in.Budget).WithVM(in.VM.Name).WithHost(h.ID)
		}
		return out, err
	}
	out = contract.SalvageOut{TakenAt: disks.TakenAt, Disks: list(disks.Disks), Stats: []contract.DiskStats{}, SentBytes: res.SentBytes, Took: res.Took}
	for _, d := range res.Disks {
		out.Stats = append(out.Stats, contract.DiskStats(d))
		looked += d.ReadBytes
	}
	return out, nil
}

// inTime gives up early what will not be done: the VM is down meanwhile. A quarter of the budget is spent before it judges.
func inTime(p replicate.Progress, took, budget time.Duration) bool {
	if took < budget/4 || p.DoneBytes <= 0 {
		return true
	}
	return float64(took)*float64(p.TotalBytes)/float64(p.DoneBytes) < 1.5*float64(budget)
}
