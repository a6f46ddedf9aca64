package recoverypoint

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"understudy/internal/blockio/qemuimg"
	"understudy/internal/durable"
	"understudy/internal/model"
)

// PutHold keeps retention from the chain of a VM until Release. A hold of the same name for the same point is success.
func (s *Store) PutHold(ctx context.Context, vm model.VMRef, hold model.Hold) error {
	r, err := s.enterNow(ctx, vm, false)
	if err != nil {
		return err
	}
	defer r.leave()
	return s.putHold(r, vm, hold)
}

func (s *Store) putHold(r *replica, vm model.VMRef, hold model.Hold) error {
	if !validName(hold.Name) {
		return model.Fail(model.InvalidArgument, nil, "%q cannot name a hold", hold.Name).WithVM(vm.Name)
	}
	if p, ok := r.find(hold.Point); !ok || p.Seed {
		return noPoint(vm, hold.Point)
	}
	holds, err := r.readHolds()
	if err != nil {
		return err
	}
	for _, h := range holds {
		if h.Name != hold.Name {
			continue
		}
		if h.Point != hold.Point {
			return model.Fail(model.Conflict, nil, "%s already holds point %s", h.Name, h.Point).WithVM(vm.Name)
		}
		return nil
	}
	if hold.Since.IsZero() {
		hold.Since = s.opts.Now()
	}
	if err := s.step("hold"); err != nil {
		return err
	}
	if err := durable.WriteJSON(r.home.hold(hold.Name), hold); err != nil {
		return ioFailure(err, "holding point %s", hold.Point).WithVM(vm.Name)
	}
	return s.step("held")
}

// Release ends a hold. A missing one is success.
func (s *Store) Release(ctx context.Context, vm model.VMRef, name string) error {
	if !validName(name) {
		return model.Fail(model.InvalidArgument, nil, "%q cannot name a hold", name).WithVM(vm.Name)
	}
	r, err := s.enter(ctx, vm, false)
	if err != nil {
		return unlessMissing(err)
	}
	defer r.leave()
	if sets, err := r.activeSets(); err != nil || slices.Contains(sets, name) {
		return model.Fail(model.Conflict, err, "the overlays %s still lie on the point", name).WithVM(vm.Name)
	}
	return s.release(r, name)
}

func (s *Store) release(r *replica, name string) error {
	if err := s.step("release"); err != nil {
		return err
	}
	if err := durable.Remove(r.home.hold(name)); err != nil {
		return ioFailure(err, "releasing hold %s", name)
	}
	return nil
}

// Holds lists the holds of a VM.
func (s *Store) Holds(ctx context.Context, vm model.VMRef) ([]model.Hold, error) {
	r, err := s.enter(ctx, vm, false)
	if err != nil {
		return nil, unlessMissing(err)
	}
	defer r.leave()
	return r.readHolds()
}

// readHolds lists the holds by name. One that cannot be read still holds.
func (r *replica) readHolds() ([]model.Hold, error) {
	entries, err := os.ReadDir(r.home.holds())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, ioFailure(err, "listing the holds of %s", r.home)
	}
	var holds []model.Hold
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || !validName(name) {
			continue
		}
		var h model.Hold
		if err := durable.ReadJSON(r.home.hold(name), &h); err != nil {
			h = model.Hold{Why: "its file is damaged"}
		}
		h.Name = name
		holds = append(holds, h)
	}
	return holds, nil
}

// activeSets lists the sets of overlays.
func (r *replica) activeSets() ([]string, error) {
	entries, err := os.ReadDir(r.home.active(""))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, ioFailure(err, "listing the overlays of %s", r.home)
	}
	var names []string
	for _, e := range entries {
		if validName(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Activate lays a set of fresh overlays on a point, for a VM to run on, and holds the point. Overlays that are there are
// left as they are: a VM may have written to them. The point itself is never written.
func (s *Store) Activate(ctx context.Context, vm model.VMRef, ref model.PointRef, name string) ([]model.Disk, error) {
	r, err := s.enterNow(ctx, vm, false)
	if err != nil {
		return nil, err
	}
	defer r.leave()
	p, ok := r.find(ref)
	if !ok || p.Seed {
		return nil, noPoint(vm, ref)
	}
	if err := s.putHold(r, vm, model.Hold{Name: name, Point: ref, Why: "a VM runs on it"}); err != nil {
		return nil, err
	}
	dir := r.home.active(name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, ioFailure(err, "making %s", dir)
	}
	s.dropOlder(r, name)
	disks := make([]model.Disk, len(p.Disks))
	group, gctx := errgroup.WithContext(ctx)
	for i, d := range p.Disks {
		disks[i] = model.Disk{Target: d.Target, Format: model.FormatQCOW2, Path: filepath.Join(dir, d.Target+".qcow2"), Size: d.Size}
		group.Go(func() error { return s.activateDisk(gctx, r, p, disks[i]) })
	}
	if err := group.Wait(); err != nil {
		return nil, ioFailure(err, "laying overlays on point %s", ref).WithVM(vm.Name)
	}
	if err := errors.Join(durable.SyncDir(dir), durable.SyncDir(r.home.active(""))); err != nil {
		return nil, ioFailure(err, "syncing %s", dir)
	}
	return disks, nil
}

// dropOlder ends what was received under older generations than the one that a set is named for: its sender is not the primary
// any more. What cannot be dropped now is dropped by the next that opens the replica; a takeover does not wait for it.
func (s *Store) dropOlder(r *replica, set string) {
	var g model.Generation
	if n, err := fmt.Sscanf(set, "g%d", &g); n != 1 || err != nil {
		return // of a test: points go on arriving
	}
	entries, _ := os.ReadDir(r.home.stagings())
	for _, e := range entries {
		ref, ok := parseRef(e.Name())
		if !ok || ref.Generation >= g {
			continue
		}
		if r.open != nil && r.open.spec.PointRef == ref {
			r.open.shut()
		}
		_ = s.trash(filepath.Join(r.home.stagings(), e.Name()))
	}
}

func (s *Store) activateDisk(ctx context.Context, r *replica, p model.Point, d model.Disk) error {
	if there, err := exists(d.Path); err != nil || there {
		return err
	}
	i := r.chain.at(d.Target, p.Seq)
	if i < 0 {
		return fmt.Errorf("the chain has no layer of disk %s", d.Target)
	}
	fresh := filepath.Join(filepath.Dir(d.Path), ".new-"+d.Target)
	if err := s.overlay(ctx, fresh, model.StagingDisk{Target: d.Target, Size: d.Size}, r.chain.Disks[d.Target][i].File); err != nil {
		return err
	}
	if err := qemuimg.Sync(fresh); err != nil {
		return err
	}
	if err := s.step("overlay-" + d.Target); err != nil {
		return err
	}
	return os.Rename(fresh, d.Path)
}

// Deactivate removes a set of overlays, and what was written to them, and the hold. It refuses while a QEMU has one of
// them open. A missing set is success.
func (s *Store) Deactivate(ctx context.Context, vm model.VMRef, name string) error {
	if !validName(name) {
		return model.Fail(model.InvalidArgument, nil, "%q cannot name a set of overlays", name).WithVM(vm.Name)
	}
	r, err := s.enter(ctx, vm, false)
	if err != nil {
		return unlessMissing(err)
	}
	defer r.leave()
	if err := r.inUse(vm, name); err != nil {
		return err
	}
	if err := s.trash(r.home.active(name)); err != nil {
		return err
	}
	if err := durable.SyncDir(r.home.active("")); err != nil { // else a power loss could bring them back without a hold
		return ioFailure(err, "removing the overlays %s", name)
	}
	return s.release(r, name)
}

// inUse refuses when a QEMU has an image of a set of overlays open.
func (r *replica) inUse(vm model.VMRef, name string) error {
	images, err := filepath.Glob(filepath.Join(r.home.active(name), "*.qcow2"))
	if err != nil {
		return ioFailure(err, "listing the overlays %s", name)
	}
	for _, path := range images {
		used, err := qemuimg.InUse(path)
		if err != nil {
			return ioFailure(err, "looking whether %s is in use", path)
		}
		if used {
			return model.Fail(model.Conflict, nil, "a VM runs on %s", path).WithVM(vm.Name).WithTry("stop that VM first")
		}
	}
	return nil
}

// Remove deletes the whole replica of a VM, also one that cannot be opened. It refuses while a VM runs on it. A missing
// one is success.
func (s *Store) Remove(ctx context.Context, vm model.VMRef) error {
	r, err := s.turnOf(ctx, vm, false)
	if err != nil {
		return unlessMissing(err)
	}
	defer r.leave()
	sets, err := r.activeSets()
	if err != nil {
		return err
	}
	for _, name := range sets {
		if err := r.inUse(vm, name); err != nil {
			return err
		}
	}
	if r.open != nil {
		r.open.shut()
	}
	if err := s.trash(string(r.home)); err != nil {
		if there, lerr := exists(string(r.home)); lerr == nil && there {
			return err
		} // else the rest goes when the store is opened next
	}
	r.chain, r.points, r.broken, r.unsettled = chain{}, nil, nil, false
	if err := durable.SyncDir(s.root); err != nil {
		return ioFailure(err, "removing the replica of %s", vm.Name)
	}
	return nil
}

// BytesOnDisk is the space that a point's own layers take, by blocks: what dropping it would give back at most.
func (s *Store) BytesOnDisk(ctx context.Context, vm model.VMRef, ref model.PointRef) (int64, error) {
	images, err := s.Images(ctx, vm, ref)
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, img := range images {
		n, err := blocksOf(img.Layers[0].Path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, ioFailure(err, "measuring point %s", ref).WithVM(vm.Name)
		}
		sum += n
	}
	return sum, nil
}

// Usage is the free and the total space of the store's file system.
func (s *Store) Usage() (free, total int64, err error) {
	if free, total, err = s.free(); err != nil {
		return 0, 0, ioFailure(err, "looking for free space")
	}
	return free, total, nil
}
