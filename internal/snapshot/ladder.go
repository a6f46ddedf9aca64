package snapshot

import (
	"context"
	"fmt"
	"slices"

	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

// ladder decides for each disk how its data is found: delta, resync or full. It returns the disks and the reason why the
// parent's checkpoint is dead; empty when it lives or was never there.
func (s *Source) ladder(ctx context.Context, req Request, disks []model.Disk, marks []hypervisor.Checkpoint, parent *record) ([]model.SnapshotDisk, string, error) {
	var all string // why no bitmap of any disk can be used
	dead := ""
	var mark hypervisor.Checkpoint
	dirty := map[string]int64{}
	i := slices.IndexFunc(marks, func(c hypervisor.Checkpoint) bool { return c.Name == req.Parent.Mark() })
	switch {
	case req.Parent.IsZero():
	case req.ForceResync != "":
		all = req.ForceResync
	case parent == nil:
		all = fmt.Sprintf("this host has no record of point %s", req.Parent)
	case i < 0:
		// Redefining a lost list from saved descriptions would spare this read; a list is lost by hand only.
		all = fmt.Sprintf("libvirt has no checkpoint of point %s", req.Parent)
	default:
		mark = marks[i]
		var err error
		dirty, err = s.hv.DirtyBytes(ctx, req.VM.UUID, mark.Name)
		switch k := model.KindOf(err); {
		case err == nil:
		case k == model.CheckpointLost || k == model.NotFound:
			dead = lost(req.Parent, err)
			all = dead
		default:
			return nil, "", err
		}
	}
	out := make([]model.SnapshotDisk, 0, len(disks))
	for _, d := range disks {
		out = append(out, rung(req, d, parent, mark, dirty, all))
	}
	return out, dead, nil
}

func lost(p model.PointRef, err error) string {
	return fmt.Sprintf("the dirty bitmap of point %s is lost (%v)", p, err)
}

// rung chooses for one disk.
func rung(req Request, d model.Disk, parent *record, mark hypervisor.Checkpoint, dirty map[string]int64, all string) model.SnapshotDisk {
	out := model.SnapshotDisk{Disk: d, DirtyBytes: d.Size}
	step := func(m model.DiskMode, format string, args ...any) model.SnapshotDisk {
		out.Mode, out.Reason = m, fmt.Sprintf(format, args...)
		return out
	}
	if req.Parent.IsZero() {
		return step(model.ModeFull, "first point")
	}
	var before model.SnapshotDisk
	if parent != nil {
		var had bool
		before, had = parent.disk(d.Target)
		switch {
		case !had:
			return step(model.ModeFull, "the disk was added after point %s", req.Parent)
		case d.Size < before.Size:
			return step(model.ModeFull, "the disk was shrunk from %d to %d bytes", before.Size, d.Size)
		}
	}
	n, known := dirty[d.Target]
	switch {
	case trackable(d) != "":
		return step(model.ModeResync, "%s", trackable(d))
	case all != "":
		return step(model.ModeResync, "%s", all)
	case d.Size > before.Size: // the bitmap says nothing of the new area
		return step(model.ModeResync, "the disk was grown from %d to %d bytes", before.Size, d.Size)
	case d.Path != before.Path || d.Format != before.Format:
		return step(model.ModeResync, "the image was %s (%s) at point %s and is now %s (%s)", before.Path, before.Format, req.Parent, d.Path, d.Format)
	case !known || !slices.Contains(mark.Disks, d.Target) || !slices.Contains(parent.Tracked, d.Target):
		return step(model.ModeResync, "there is no dirty bitmap of point %s for this disk", req.Parent)
	}
	out.Mode, out.DirtyBytes = model.ModeDelta, n
	return out
}

// stepDown turns every delta into a resync.
func stepDown(disks []model.SnapshotDisk, reason string) (changed bool) {
	for i := range disks {
		if d := &disks[i]; d.Mode == model.ModeDelta {
			d.Mode, d.Reason, d.DirtyBytes, changed = model.ModeResync, reason, d.Size, true
		}
	}
	return changed
}
