package activities

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"understudy/internal/contract"
	"understudy/internal/model"
	"understudy/internal/restore"
)

// Marker lists what is left on this host.
type Marker interface {
	List(ctx context.Context) ([]model.Mark, error)
	// EndOrphan ends a qemu-nbd of ours that outlived its agent.
	EndOrphan(ctx context.Context, m model.Mark) error
}

// marks lists, and removes first what was asked for.
func (h *Host) marks(ctx context.Context, in contract.MarksIn) (contract.MarksOut, error) {
	b := startBeat(ctx)
	defer b.end()
	out := contract.MarksOut{Marks: []model.Mark{}, Removed: []model.Mark{}, Failed: []string{}}
	found, err := h.Marker.List(ctx)
	if err != nil {
		return out, toWire(err)
	}
	for _, m := range in.Remove {
		if !slices.Contains(found, m) {
			continue // gone, or another by now
		}
		if err := h.remove(ctx, m); err != nil {
			out.Failed = append(out.Failed, fmt.Sprintf("%s %s: %v", m.Kind, m.Name, err))
			continue
		}
		out.Removed = append(out.Removed, m)
	}
	if len(in.Remove) > 0 {
		if found, err = h.Marker.List(ctx); err != nil {
			return out, toWire(err)
		}
	}
	out.Marks = list(found)
	return out, nil
}

// remove goes through the stage that made the mark: each refuses what is in use.
func (h *Host) remove(ctx context.Context, m model.Mark) error {
	ref := model.PointRef{Generation: m.Generation, Seq: m.Seq}
	switch m.Kind {
	case model.MarkCheckpoint:
		return left(h.Snapshot.Abandon(ctx, m.VM, ref))
	case model.MarkJob, model.MarkScratch, model.MarkSocket:
		return left(h.Snapshot.Leave(ctx, m.VM))
	case model.MarkStaging:
		return h.Store.Discard(ctx, m.VM, ref)
	case model.MarkOverlay:
		return h.Store.Deactivate(ctx, m.VM, filepath.Base(m.Name))
	case model.MarkWatch:
		return h.Watcher.Forget(m.VM)
	case model.MarkFloor:
		return h.Floors.Forget(m.VM.UUID)
	case model.MarkRecord:
		if filepath.Base(filepath.Dir(filepath.Dir(m.Name))) == "captures" {
			return left(h.Snapshot.Retire(ctx, m.VM))
		}
		return h.Restorer.Forget(m.VM)
	case model.MarkTest:
		return h.Restorer.TestClean(ctx, restore.Test{VM: m.VM, Number: int(m.Seq)}) //nolint:gosec // counts tests
	case model.MarkNBD:
		return h.Marker.EndOrphan(ctx, m)
	case model.MarkGuard: // it would let the VM start here, and nobody is left who knows where else it runs
		return model.Fail(model.Refused, nil, "only a person lets the VM start here again").WithHost(h.ID).WithTry("understudy guard forget " + m.VM.UUID + ", on this host")
	case model.MarkReplica, model.MarkRescue:
		return model.Fail(model.Refused, nil, "it is not removed by this command").WithHost(h.ID)
	}
	return os.ErrInvalid
}

func left(leftovers []string, err error) error {
	if err == nil && len(leftovers) > 0 {
		err = model.Fail(model.Conflict, nil, "%s", leftovers[0])
	}
	return err
}
