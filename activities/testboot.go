package activities

import (
	"context"

	"understudy/internal/contract"
	"understudy/internal/model"
	"understudy/internal/restore"
)

// busy is the share of all cores in use from which a scheduled boot verification waits.
const busy = 0.85

func testOf(in contract.TestBootIn) restore.Test {
	return restore.Test{VM: in.VM, Point: in.Point, Number: in.Number, Probes: in.Probes, For: in.For}
}

// testBoot boots a copy that nobody can take for the VM. It needs no permit: another UUID, no network, no disk of the VM's.
func (h *Host) testBoot(ctx context.Context, in contract.TestBootIn) (contract.TestBootOut, error) {
	b := startBeat(ctx)
	defer b.end()
	if load := h.Self.Facts(ctx).Load; in.Spare && load != nil && load.CPU > busy {
		return contract.TestBootOut{}, toWire(model.Fail(model.Conflict, nil, "the host has no time for a boot verification: %.0f %% of its CPU is in use", 100*load.CPU).WithVM(in.VM.Name).WithHost(h.ID))
	}
	name, at, err := h.Restorer.TestBoot(ctx, testOf(in))
	return contract.TestBootOut{Name: name, At: at}, toWire(err)
}

func (h *Host) testProbe(ctx context.Context, in contract.TestBootIn) (contract.TestBootOut, error) {
	b := startBeat(ctx)
	defer b.end()
	a, err := h.Restorer.TestProbe(ctx, testOf(in))
	return contract.TestBootOut{At: a.At, Answered: a.By, Detail: a.Detail}, toWire(err)
}

func (h *Host) testClean(ctx context.Context, in contract.TestBootIn) (contract.None, error) {
	b := startBeat(ctx)
	defer b.end()
	return contract.None{}, toWire(h.Restorer.TestClean(ctx, testOf(in)))
}
