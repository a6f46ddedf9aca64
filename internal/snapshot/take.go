package snapshot

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

// Bounds of what the scratch folder must have free: a twentieth of the disks within these.
const (
	minScratch = 64 << 20
	maxScratch = 1 << 30
)

// Take makes the snapshot of a point and holds it open. Asked again for the open one it returns that; any other open one of
// ours is ended first, because a VM can have one backup job.
func (s *Source) Take(ctx context.Context, req Request) (Snapshot, error) {
	if req.Point.IsZero() {
		return Snapshot{}, s.fail(model.InvalidArgument, req.VM, nil, "a snapshot needs the number of its point")
	}
	leave, err := s.enter(ctx, req.VM)
	if err != nil {
		return Snapshot{}, err
	}
	defer leave()
	if req.Wanted != nil {
		if err := req.Wanted(); err != nil {
			return Snapshot{}, err
		}
	}

	facts, dom, refusal, err := s.inspect(ctx, req.VM.UUID)
	if err != nil {
		return Snapshot{}, err
	}
	if !dom.State.Active() {
		return Snapshot{}, s.fail(model.NotRunning, req.VM, nil, "the VM is not running (%s), so there is nothing to snapshot", dom.State).WithTry("virsh start " + dom.VM.Name)
	}
	if refusal != nil {
		return Snapshot{}, refusal
	}
	if snap, ok, err := s.reuse(ctx, req); ok || err != nil {
		return snap, err
	}
	marks, err := s.ourMarks(ctx, req.VM)
	if err != nil {
		return Snapshot{}, err
	}
	parent := s.parent(req)
	if err := s.sweep(ctx, req, marks); err != nil {
		return Snapshot{}, err
	}
	if err := s.holdAutostart(ctx, dom); err != nil {
		return Snapshot{}, err
	}
	disks, dead, err := s.ladder(ctx, req, facts.Disks, marks, parent)
	if err != nil {
		return Snapshot{}, err
	}
	xml, err := s.hv.XML(ctx, req.VM.UUID)
	if err != nil {
		return Snapshot{}, err
	}
	return s.capture(ctx, req, disks, dead, xml)
}

// reuse looks at the job that is there. One of the same point is the answer; another one of ours is ended; somebody else's
// is in the way.
func (s *Source) reuse(ctx context.Context, req Request) (Snapshot, bool, error) {
	rec, open := s.readRecord(req.VM.UUID, openFile)
	socket, err := s.hv.CaptureSocket(ctx, req.VM.UUID)
	if err != nil {
		return Snapshot{}, false, err
	}
	if socket != "" && !ours(socket, req.VM.UUID) {
		return Snapshot{}, false, s.fail(model.JobConflict, req.VM, nil, "somebody else's backup job holds the VM (socket %s)", socket).WithTry("virsh domjobinfo " + req.VM.Name)
	}
	if open && socket == rec.Socket && rec.Snapshot.Point == req.Point && rec.Parent == req.Parent &&
		rec.Forced == req.ForceResync && (rec.Freeze || !req.Freeze) {
		return rec.Snapshot, true, nil
	}
	if err := s.endJob(ctx, req.VM, socket); err != nil {
		return Snapshot{}, false, err
	}
	if !open {
		return Snapshot{}, false, nil
	}
	// A snapshot that the standby has committed, but nobody settled, is the parent now.
	if rec.Snapshot.Point == req.Parent {
		err = s.promote(req.VM.UUID)
	} else {
		err = s.dropRecord(req.VM.UUID, openFile)
	}
	if err != nil {
		return Snapshot{}, false, s.fail(model.Internal, req.VM, err, "writing the record of the last snapshot")
	}
	return Snapshot{}, false, nil
}

// ourMarks lists our checkpoints and refuses to work beside somebody else's: libvirt chains them, so that deleting either
// side's changes the other's.
func (s *Source) ourMarks(ctx context.Context, vm model.VMRef) ([]hypervisor.Checkpoint, error) {
	all, err := s.hv.Checkpoints(ctx, vm.UUID)
	if err != nil {
		return nil, err
	}
	own, foreign := split(all)
	if len(foreign) > 0 {
		return nil, s.fail(model.ForeignCheckpoint, vm, nil, "the VM has checkpoints of somebody else: %s", describe(foreign)).
			WithTry("virsh checkpoint-delete " + vm.Name + " " + foreign[0] + ", if its owner does not need it any more")
	}
	return own, nil
}

func split(all []hypervisor.Checkpoint) (own []hypervisor.Checkpoint, foreign []string) {
	for _, c := range all {
		if _, ok := model.ParseMark(c.Name); ok {
			own = append(own, c)
		} else {
			foreign = append(foreign, c.Name)
		}
	}
	return own, foreign
}

// parent is what we know of the point that the standby builds on. A record of any other point is out of date.
func (s *Source) parent(req Request) *record {
	rec, ok := s.readRecord(req.VM.UUID, committedFile)
	if !ok || req.Parent.IsZero() || rec.Snapshot.Point != req.Parent {
		return nil
	}
	return &rec
}

// sweep deletes our checkpoints but the parent's: abandoned ones, and what a protection of old left under a number that
// comes again.
func (s *Source) sweep(ctx context.Context, req Request, marks []hypervisor.Checkpoint) error {
	for _, c := range marks {
		if c.Name == req.Parent.Mark() {
			continue
		}
		if err := s.hv.DeleteCheckpoint(ctx, req.VM.UUID, c.Name); err != nil && (unreachable(err) || c.Name == req.Point.Mark()) {
			return err
		}
	}
	if rec, ok := s.readRecord(req.VM.UUID, committedFile); ok && rec.Snapshot.Point != req.Parent {
		if err := s.dropRecord(req.VM.UUID, committedFile); err != nil {
			return s.fail(model.Internal, req.VM, err, "removing the record of point %s", rec.Snapshot.Point)
		}
	}
	return nil
}

// capture fixes the instant. When libvirt does not accept a bitmap after all, every delta becomes a resync and it is tried
// once more.
func (s *Source) capture(ctx context.Context, req Request, disks []model.SnapshotDisk, dead, xml string) (Snapshot, error) {
	if err := s.prepare(req.VM, disks); err != nil {
		return Snapshot{}, err
	}
	for {
		if dead != "" {
			// What cannot be deleted now is tried again at Settle, which reports it.
			if err := s.hv.DeleteCheckpoint(ctx, req.VM.UUID, req.Parent.Mark()); unreachable(err) {
				return Snapshot{}, err
			}
		}
		spec, tracked := s.spec(req, disks)
		c, err := s.hv.Capture(ctx, req.VM.UUID, spec)
		if err == nil {
			return s.opened(ctx, req, disks, tracked, c, xml)
		}
		if k := model.KindOf(err); k != model.CheckpointLost && k != model.NotFound {
			return Snapshot{}, err
		}
		dead = lost(req.Parent, err)
		if !stepDown(disks, dead) {
			return Snapshot{}, err
		}
	}
}

func (s *Source) spec(req Request, disks []model.SnapshotDisk) (hypervisor.CaptureSpec, []string) {
	spec := hypervisor.CaptureSpec{
		Socket: s.socket(req.VM.UUID), ScratchDir: s.scratch(req.VM.UUID), Freeze: req.Freeze, FreezeTimeout: s.o.FreezeTimeout,
	}
	tracked := []string{}
	for _, d := range disks {
		c := hypervisor.CaptureDisk{Target: d.Target, NoBitmap: trackable(d.Disk) != ""}
		if d.Mode == model.ModeDelta {
			c.Since = req.Parent.Mark()
		}
		if !c.NoBitmap {
			tracked = append(tracked, d.Target)
			spec.Checkpoint = req.Point.Mark()
		}
		spec.Disks = append(spec.Disks, c)
	}
	return spec, tracked
}

// opened records an open snapshot. When that fails the job is ended again: what is not recorded cannot be handed out.
func (s *Source) opened(ctx context.Context, req Request, disks []model.SnapshotDisk, tracked []string, c hypervisor.Capture, xml string) (Snapshot, error) {
	exports := make(map[string]hypervisor.Export, len(c.Exports))
	for _, e := range c.Exports {
		exports[e.Target] = e
	}
	var err error
	for i := range disks {
		e, ok := exports[disks[i].Target]
		if !ok || (disks[i].Mode == model.ModeDelta && e.Bitmap == "") {
			err = s.fail(model.Internal, req.VM, nil, "the backup job does not serve disk %s as asked", disks[i].Target)
		}
		disks[i].Export = e.Name
		if disks[i].Mode == model.ModeDelta {
			disks[i].Bitmap = e.Bitmap
		}
	}
	snap := Snapshot{Point: req.Point, TakenAt: c.TakenAt.UTC(), Consistency: model.CrashConsistent, Disks: disks, DomainXML: xml, Stall: c.Stall}
	if c.Frozen {
		snap.Consistency = model.FilesystemConsistent
	}
	if err == nil {
		err = s.writeRecord(req.VM.UUID, openFile, record{
			Snapshot: snap, Parent: req.Parent, Forced: req.ForceResync, Freeze: req.Freeze, Socket: c.Socket, Tracked: tracked,
		})
		if err != nil {
			err = s.fail(model.Internal, req.VM, err, "recording the snapshot")
		}
	}
	if err != nil {
		// Best effort: the next Take or Abandon finds both by their names.
		_ = s.endJob(ctx, req.VM, c.Socket)
		_ = s.hv.DeleteCheckpoint(ctx, req.VM.UUID, req.Point.Mark())
		return Snapshot{}, err
	}
	return snap, nil
}

// prepare makes the folders, removes what a dead job left in them and looks whether there is room for scratch files.
func (s *Source) prepare(vm model.VMRef, disks []model.SnapshotDisk) error {
	socket, scratch := s.socket(vm.UUID), s.scratch(vm.UUID)
	if len(socket) > maxSocket {
		return s.fail(model.InvalidArgument, vm, nil, "the path of the socket %s is longer than %d bytes", socket, maxSocket).WithTry("understudy agent --run-dir with a shorter path")
	}
	err := s.clearFiles(vm.UUID)
	for _, dir := range []string{s.o.RunDir, scratch} {
		if err == nil {
			err = os.MkdirAll(dir, 0o711) // QEMU may run as another user and must pass
		}
	}
	var fs unix.Statfs_t
	if err == nil {
		err = unix.Statfs(scratch, &fs)
	}
	if err != nil {
		return s.fail(model.Internal, vm, err, "preparing the folders of the snapshot")
	}
	var total int64
	for _, d := range disks {
		total += d.Size
	}
	need := min(max(total/20, minScratch), maxScratch)
	if free := int64(min(fs.Bavail, 1<<40)) * fs.Bsize; free < need {
		return s.fail(model.Refused, vm, nil, "%s has %d MiB free, and a snapshot needs about %d MiB for what the VM overwrites meanwhile", scratch, free>>20, need>>20).
			WithTry("make room there, or understudy agent --state-dir on a larger file system")
	}
	return nil
}

// holdAutostart keeps libvirtd from starting the VM by itself after a reboot of the host: by then it may run elsewhere.
// What it was is remembered durably first, and Retire puts it back.
func (s *Source) holdAutostart(ctx context.Context, dom hypervisor.Domain) error {
	if !dom.Autostart {
		return nil
	}
	if err := s.rememberAutostart(dom.VM.UUID); err != nil {
		return s.fail(model.Internal, dom.VM, err, "remembering that autostart is on")
	}
	return s.hv.SetAutostart(ctx, dom.VM.UUID, false)
}

func unreachable(err error) bool { return err != nil && model.KindOf(err) == model.Unreachable }
