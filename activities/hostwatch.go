package activities

import (
	"context"
	"time"

	"go.temporal.io/sdk/activity"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// watch is the liveness heartbeat: it only lives, and says at the end of each round how the host is.
func (h *Host) watch(ctx context.Context, in contract.WatchIn) (contract.WatchOut, error) {
	if in.Host != h.ID {
		return contract.WatchOut{}, toWire(model.Fail(model.InvalidArgument, nil, "a watch of %q came to %q", in.Host, h.ID))
	}
	b := startBeat(ctx)
	defer b.end()
	end := time.NewTimer(in.For)
	defer end.Stop()
	select {
	case <-end.C:
	case <-ctx.Done():
		return contract.WatchOut{}, toWire(ctx.Err())
	case <-activity.GetWorkerStopChannel(ctx):
	}
	return contract.WatchOut{Facts: h.Self.Facts(ctx)}, nil
}

func (h *Host) inspect(ctx context.Context, in contract.InspectIn) (contract.InspectOut, error) {
	out := contract.InspectOut{Facts: h.Self.Facts(ctx), Domains: []model.DomainFacts{}, Checks: []model.Check{}}
	if in.Doctor {
		out.Checks = list(h.Self.Doctor(ctx))
	}
	names, err := h.namesOf(ctx, in.VM)
	if err != nil {
		return out, toWire(err)
	}
	for _, name := range names {
		facts, _, err := h.Snapshot.Inspect(ctx, name)
		if absent(err) && in.VM == "*" {
			continue // it went meanwhile
		}
		if err != nil {
			return out, toWire(err)
		}
		out.Domains = append(out.Domains, facts)
	}
	return out, nil
}

func (h *Host) namesOf(ctx context.Context, vm string) ([]string, error) {
	switch vm {
	case "":
		return nil, nil
	case "*":
		domains, err := h.Domains.Domains(ctx)
		names := make([]string, 0, len(domains))
		for _, d := range domains {
			names = append(names, d.VM.UUID)
		}
		return names, err
	}
	return []string{vm}, nil
}
