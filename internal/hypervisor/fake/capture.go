package fake

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

const exportBitmap = model.MarkPrefix + "export"

func scratchPrefix(uuid string) string { return model.MarkPrefix + "scratch-" + uuid + "-" }

// job is a backup job that runs.
type job struct {
	*server
	scratch []string
}

func (j *job) stop() {
	if j == nil {
		return
	}
	j.server.stop()
	j.remove()
}

func (j *job) remove() {
	for _, f := range j.scratch {
		_ = os.Remove(f) // as libvirt does, which tells nobody either
	}
}

// Capture implements hypervisor.Hypervisor.
func (h *Hypervisor) Capture(ctx context.Context, uuid string, spec hypervisor.CaptureSpec) (hypervisor.Capture, error) {
	if err := h.enter(ctx, "Capture", uuid); err != nil {
		return hypervisor.Capture{}, err
	}
	defer h.mu.Unlock()
	d, err := h.active("taking a snapshot", uuid)
	if err != nil {
		return hypervisor.Capture{}, err
	}
	start := time.Now()
	if spec.Freeze {
		if !d.hasAgent || d.agent == AgentHangs {
			return hypervisor.Capture{}, model.Fail(model.QuiesceFailed, nil, "the guest agent did not freeze it").WithVM(d.d.VM.Name)
		}
		d.frozen = true
	}
	got, err := h.begin(d, spec)
	if spec.Freeze {
		if d.agent == AgentHangsFrozen {
			if err == nil {
				h.drop(d, spec.Checkpoint)
				d.job.stop()
				d.job = nil
			}
			return hypervisor.Capture{}, model.Fail(model.QuiesceFailed, err, "the guest was frozen and its agent does not thaw it").WithVM(d.d.VM.Name)
		}
		d.frozen = false
	}
	got.Frozen, got.Stall = spec.Freeze, time.Since(start)
	return got, err
}

func (h *Hypervisor) begin(d *domain, spec hypervisor.CaptureSpec) (hypervisor.Capture, error) {
	none := hypervisor.Capture{}
	bad := func(kind model.Kind, format string, args ...any) (hypervisor.Capture, error) {
		return none, model.Fail(kind, nil, format, args...).WithVM(d.d.VM.Name)
	}
	has := func(name string) bool {
		return slices.ContainsFunc(d.checkpoints, func(c hypervisor.Checkpoint) bool { return c.Name == name })
	}
	switch {
	case d.job != nil:
		return bad(model.JobConflict, "another backup job runs")
	case len(spec.Disks) == 0 || !filepath.IsAbs(spec.Socket) || len(spec.Socket) > 107 || !filepath.IsAbs(spec.ScratchDir):
		return bad(model.InvalidArgument, "the snapshot is asked for badly")
	case spec.Checkpoint != "" && has(spec.Checkpoint):
		return bad(model.Internal, "checkpoint %s exists already", spec.Checkpoint)
	}
	got := hypervisor.Capture{TakenAt: time.Now().UTC(), Socket: spec.Socket}
	exports := map[string]*frozen{}
	var marked []*image
	cp := hypervisor.Checkpoint{Name: spec.Checkpoint, Created: got.TakenAt.Truncate(time.Second)}
	if n := len(d.checkpoints); n > 0 {
		cp.Parent = d.checkpoints[n-1].Name
	}
	for _, c := range spec.Disks {
		img, err := h.imageOf(d, c.Target)
		if err != nil {
			return none, err
		}
		x := hypervisor.Export{Target: c.Target, Name: c.Target}
		var since *bitmap
		if c.Since != "" {
			var ok bool
			if since, ok = img.usable(c.Since); !ok || !has(c.Since) {
				return bad(model.CheckpointLost, "disk %s has no usable bitmap of checkpoint %s", c.Target, c.Since)
			}
			x.Bitmap = exportBitmap
		}
		if spec.Checkpoint != "" && !c.NoBitmap {
			if img.format == model.FormatRaw {
				return bad(model.Unsupported, "checkpoint for disk %s unsupported for storage type raw", c.Target)
			}
			if img.bitmaps[spec.Checkpoint] != nil {
				return bad(model.Internal, "disk %s has a bitmap %s already", c.Target, spec.Checkpoint)
			}
			marked = append(marked, img)
			cp.Disks = append(cp.Disks, c.Target)
		}
		exports[c.Target] = img.freeze(since)
		got.Exports = append(got.Exports, x)
	}
	if spec.Checkpoint != "" && len(marked) == 0 {
		return bad(model.InvalidArgument, "checkpoint %s would be on no disk", spec.Checkpoint)
	}
	j := &job{}
	for _, c := range spec.Disks {
		file := filepath.Join(spec.ScratchDir, scratchPrefix(d.d.VM.UUID)+c.Target)
		j.scratch = append(j.scratch, file)
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			j.remove()
			return none, model.Fail(model.Internal, err, "the scratch file of disk %s cannot be made", c.Target).WithVM(d.d.VM.Name)
		}
	}
	var err error
	if j.server, err = serve(spec.Socket, exportBitmap, exports); err != nil {
		j.remove()
		return none, model.Fail(model.Internal, err, "the NBD server cannot be started").WithVM(d.d.VM.Name)
	}
	d.job = j
	if spec.Checkpoint != "" {
		for _, img := range marked {
			img.bitmaps[spec.Checkpoint] = &bitmap{pages: map[int64]bool{}}
		}
		d.checkpoints = append(d.checkpoints, cp)
	}
	return got, nil
}

// EndCapture implements hypervisor.Hypervisor.
func (h *Hypervisor) EndCapture(ctx context.Context, uuid, scratchDir string) error {
	if err := h.enter(ctx, "EndCapture", uuid); err != nil {
		return err
	}
	var j *job
	if d := h.domains[uuid]; d != nil {
		j, d.job = d.job, nil
	}
	h.mu.Unlock()
	j.stop()
	entries, err := os.ReadDir(scratchDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), scratchPrefix(uuid)) && e.Type().IsRegular() {
			err = errors.Join(err, os.Remove(filepath.Join(scratchDir, e.Name())))
		}
	}
	if err != nil {
		return model.Fail(model.Internal, err, "removing scratch files")
	}
	return nil
}

// CaptureSocket implements hypervisor.Hypervisor.
func (h *Hypervisor) CaptureSocket(ctx context.Context, uuid string) (string, error) {
	if err := h.enter(ctx, "CaptureSocket", uuid); err != nil {
		return "", err
	}
	defer h.mu.Unlock()
	d, err := h.get("looking for a backup job", uuid)
	if err != nil || d.job == nil {
		return "", err
	}
	return d.job.path, nil
}

// Checkpoints implements hypervisor.Hypervisor.
func (h *Hypervisor) Checkpoints(ctx context.Context, uuid string) ([]hypervisor.Checkpoint, error) {
	if err := h.enter(ctx, "Checkpoints", uuid); err != nil {
		return nil, err
	}
	defer h.mu.Unlock()
	d, err := h.get("listing the checkpoints", uuid)
	if err != nil {
		return nil, err
	}
	return slices.Clone(d.checkpoints), nil
}

// drop removes a checkpoint with its bitmaps.
func (h *Hypervisor) drop(d *domain, name string) {
	h.each(d, func(_ string, img *image) { delete(img.bitmaps, name) })
	parent := ""
	for _, c := range d.checkpoints {
		if c.Name == name {
			parent = c.Parent
		}
	}
	d.checkpoints = slices.DeleteFunc(slices.Clone(d.checkpoints), func(c hypervisor.Checkpoint) bool { return c.Name == name })
	for i := range d.checkpoints {
		if d.checkpoints[i].Parent == name {
			d.checkpoints[i].Parent = parent
		}
	}
}

// DeleteCheckpoint implements hypervisor.Hypervisor.
func (h *Hypervisor) DeleteCheckpoint(ctx context.Context, uuid, name string) error {
	if err := h.enter(ctx, "DeleteCheckpoint", uuid); err != nil {
		return err
	}
	defer h.mu.Unlock()
	if d := h.domains[uuid]; d != nil {
		h.drop(d, name)
	}
	return nil
}

// DirtyBytes implements hypervisor.Hypervisor.
func (h *Hypervisor) DirtyBytes(ctx context.Context, uuid, checkpoint string) (map[string]int64, error) {
	if err := h.enter(ctx, "DirtyBytes", uuid); err != nil {
		return nil, err
	}
	defer h.mu.Unlock()
	d, err := h.active("measuring what changed", uuid)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(d.checkpoints, func(c hypervisor.Checkpoint) bool { return c.Name == checkpoint })
	if i < 0 {
		return nil, model.Fail(model.NotFound, nil, "there is no checkpoint %s", checkpoint).WithVM(d.d.VM.Name)
	}
	out := map[string]int64{}
	for _, target := range d.checkpoints[i].Disks {
		img, err := h.imageOf(d, target)
		if err != nil {
			return nil, err
		}
		b, ok := img.usable(checkpoint)
		if !ok {
			return nil, model.Fail(model.CheckpointLost, nil, "disk %s has no usable bitmap of checkpoint %s", target, checkpoint).WithVM(d.d.VM.Name)
		}
		out[target] = b.bytes(img.size)
	}
	return out, nil
}
