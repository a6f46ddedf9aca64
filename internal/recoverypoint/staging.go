package recoverypoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"understudy/internal/model"
)

// sectorSize is what the size of a qcow2 image is a multiple of.
const sectorSize = 512

// stagingSpec is spec.json: what a staging area was opened for. Boot tells whether the page cache it was written to is
// still this one.
type stagingSpec struct {
	model.StagingSpec
	Boot string `json:"boot"`
}

// decodeSpec reads and checks spec.json; whatever the bytes are, it gives a sound spec or an error.
func decodeSpec(p []byte) (stagingSpec, error) {
	var s stagingSpec
	if len(p) > maxChain {
		return s, fmt.Errorf("spec of %d bytes", len(p))
	}
	if err := json.Unmarshal(p, &s); err != nil {
		return s, err
	}
	return s, checkSpec(s.StagingSpec)
}

func checkSpec(s model.StagingSpec) error {
	if err := checkNames(s.VM, s.PointRef, s.Parent, len(s.Disks)); err != nil {
		return err
	}
	seen := make(map[string]bool, len(s.Disks))
	for _, d := range s.Disks {
		switch {
		case !model.ValidTarget(d.Target) || seen[d.Target]:
			return fmt.Errorf("disk %q is not a target or named twice", d.Target)
		case d.Size <= 0 || d.Size > model.MaxDiskSize || d.Size%sectorSize != 0:
			return fmt.Errorf("disk %s of %d bytes", d.Target, d.Size)
		case d.Expect < 0:
			return fmt.Errorf("disk %s expects %d bytes", d.Target, d.Expect)
		case d.Mode != model.ModeFull && d.Mode != model.ModeDelta && d.Mode != model.ModeResync:
			return fmt.Errorf("disk %s in mode %q", d.Target, d.Mode)
		case d.Mode != model.ModeFull && s.Parent == 0:
			return fmt.Errorf("disk %s in mode %s without a parent point", d.Target, d.Mode)
		}
		seen[d.Target] = true
	}
	return nil
}

// builds tells whether the point lies on its parent with at least one disk.
func builds(s model.StagingSpec) bool {
	for _, d := range s.Disks {
		if d.Mode != model.ModeFull {
			return true
		}
	}
	return false
}

// same tells whether what was staged for a belongs to b as well. What is expected may be estimated anew.
func same(a, b model.StagingSpec) bool {
	plain := func(s model.StagingSpec) model.StagingSpec {
		s.VM.Name = ""
		disks := make([]model.StagingDisk, len(s.Disks))
		for i, d := range s.Disks {
			d.Expect = 0
			disks[i] = d
		}
		s.Disks = disks
		return s
	}
	return reflect.DeepEqual(plain(a), plain(b))
}

// Stage opens the staging area of a point, or opens it again to go on with what was acknowledged: the same point of the
// same capture in the same boot of this host. Whatever else was staged for the VM is dropped, and a session that is still
// open ends: the sender has come back. Nothing is staged for a generation below the highest that was seen, nor for a
// parent that is not the newest committed point.
func (s *Store) Stage(ctx context.Context, spec model.StagingSpec) (*Staging, error) {
	if err := checkSpec(spec); err != nil {
		return nil, model.Fail(model.InvalidArgument, err, "staging point %s", spec.PointRef).WithVM(spec.VM.Name)
	}
	r, err := s.enterNow(ctx, spec.VM, !builds(spec))
	if err != nil {
		if model.KindOf(err) == model.NotFound {
			return nil, model.Fail(model.ChainBroken, err, "point %s builds on point %d, and there is none here", spec.PointRef, spec.Parent).WithVM(spec.VM.Name)
		}
		return nil, err
	}
	defer r.leave()
	if r.open != nil {
		r.open.shut()
	}
	if err := s.admit(r, spec); err != nil {
		return nil, err
	}
	if err := s.raise(r, spec.Generation); err != nil {
		return nil, err
	}
	return s.openStaging(ctx, r, spec)
}

// raise remembers the highest generation, durably.
func (s *Store) raise(r *replica, g model.Generation) error {
	if g <= r.chain.Floor {
		return nil
	}
	c := r.chain.clone()
	c.Floor = g
	return s.writeChain(r, c)
}

// admit tells whether a point may be staged on what is here.
func (s *Store) admit(r *replica, spec model.StagingSpec) error {
	if err := r.fenced(spec.VM, spec.Generation); err != nil {
		return err
	}
	if err := s.settle(r); err != nil {
		return err
	}
	newest, ok := r.newest()
	switch {
	case ok && spec.Seq <= newest.Seq:
		return model.Fail(model.Conflict, nil, "point %s cannot follow on %s, which is committed here", spec.PointRef, newest.PointRef).
			WithVM(spec.VM.Name).WithTry("understudy points " + spec.VM.Name)
	case builds(spec) && !ok:
		return model.Fail(model.ChainBroken, nil, "point %s builds on point %d, and there is none here", spec.PointRef, spec.Parent).WithVM(spec.VM.Name)
	case builds(spec) && newest.Seq != spec.Parent:
		return model.Fail(model.ChainBroken, nil, "point %s builds on point %d, and the newest here is %s", spec.PointRef, spec.Parent, newest.PointRef).WithVM(spec.VM.Name)
	}
	for _, d := range spec.Disks {
		if d.Mode == model.ModeFull {
			continue
		}
		if err := r.fits(d, newest); err != nil {
			return model.Fail(model.ChainBroken, err, "disk %s of point %s cannot build on %s: it needs a full copy", d.Target, spec.PointRef, newest.PointRef).WithVM(spec.VM.Name)
		}
	}
	return nil
}

// fenced refuses a generation below the highest seen.
func (r *replica) fenced(vm model.VMRef, g model.Generation) error {
	if g < r.chain.Floor {
		return model.Fail(model.StaleGeneration, nil, "generation %d is over: this store has seen %d", g, r.chain.Floor).WithVM(vm.Name)
	}
	return nil
}

// fits tells whether a disk can build on the newest point: it is there, was not made smaller, and its digests are known.
func (r *replica) fits(d model.StagingDisk, newest model.Point) error {
	was, ok := diskOf(newest, d.Target)
	switch {
	case !ok || r.chain.at(d.Target, newest.Seq) < 0:
		return errors.New("the parent point does not have it")
	case d.Size < was.Size:
		return fmt.Errorf("it was made smaller, from %d to %d bytes", was.Size, d.Size)
	}
	t, err := openTable(r.home.digests(d.Target), false)
	if err != nil {
		return err
	}
	defer t.close()
	return t.isOf(r.chain.Seed, newest.Seq)
}

func diskOf(p model.Point, target string) (model.PointDisk, bool) {
	for _, d := range p.Disks {
		if d.Target == target {
			return d, true
		}
	}
	return model.PointDisk{}, false
}

// openStaging makes or reopens the area. Its turn is held.
func (s *Store) openStaging(ctx context.Context, r *replica, spec model.StagingSpec) (*Staging, error) {
	dir := r.home.staging(spec.PointRef)
	if err := s.dropStagings(r, spec.PointRef); err != nil {
		return nil, err
	}
	old, err := readSpec(dir)
	resumed := err == nil && old.Boot == s.opts.BootID && same(old.StagingSpec, spec)
	if !resumed {
		if err := s.trash(dir); err != nil {
			return nil, err
		}
	}
	if err := s.room(spec, dir); err != nil {
		return nil, err
	}
	if !resumed {
		if err := s.makeStaging(dir, stagingSpec{StagingSpec: spec, Boot: s.opts.BootID}); err != nil {
			return nil, err
		}
	}
	st := newStaging(s, r, spec, dir)
	group, gctx := errgroup.WithContext(ctx)
	for _, d := range st.disks {
		group.Go(func() error { return d.open(gctx) })
	}
	if err := group.Wait(); err != nil {
		st.shut()
		if isFull(err) {
			_ = s.trash(dir)
		}
		return nil, ioFailure(err, "opening the staging area of point %s", spec.PointRef).WithVM(spec.VM.Name)
	}
	r.open = st
	return st, nil
}

// makeStaging makes the folder with its spec. Neither is synced: they need not survive this boot.
func (s *Store) makeStaging(dir string, spec stagingSpec) error {
	p, err := json.Marshal(spec)
	if err != nil {
		return model.Fail(model.Internal, err, "encoding the staging spec")
	}
	if err := s.step("staging"); err != nil {
		return err
	}
	tmp := filepath.Join(dir, "."+specFile)
	err = os.Mkdir(dir, 0o700)
	if err == nil {
		err = os.WriteFile(tmp, p, 0o600)
	}
	if err == nil {
		err = os.Rename(tmp, filepath.Join(dir, specFile))
	}
	if err != nil {
		_ = s.trash(dir)
		return ioFailure(err, "making the staging area %s", dir)
	}
	return s.step("staging-made")
}

func readSpec(dir string) (stagingSpec, error) {
	p, err := readBounded(filepath.Join(dir, specFile), maxChain)
	if err != nil {
		return stagingSpec{}, err
	}
	return decodeSpec(p)
}

// room refuses what would take more space than there is above the reserve. What is staged already is counted as free.
func (s *Store) room(spec model.StagingSpec, dir string) error {
	var expect int64
	for _, d := range spec.Disks {
		expect += min(d.Expect, d.Size)
	}
	free, _, err := s.free()
	if err != nil {
		return ioFailure(err, "looking for free space")
	}
	free += used(dir)
	if expect+s.opts.Reserve <= free {
		return nil
	}
	return model.Fail(model.TargetFull, nil, "point %s needs %d bytes and %d in reserve, and %d are free in %s", spec.PointRef, expect, s.opts.Reserve, free, s.root).
		WithVM(spec.VM.Name).WithTry("free space on the standby's store, or lower --keep-last")
}

// used is the space of the files right in a folder, by blocks.
func used(dir string) int64 {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	var sum int64
	for _, e := range entries {
		if n, err := blocksOf(filepath.Join(dir, e.Name())); err == nil {
			sum += n
		}
	}
	return sum
}

// blocksOf is the space a file takes; sparse files look larger than they are.
func blocksOf(path string) (int64, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return 0, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	return st.Blocks * 512, nil
}

// dropStagings removes all staging areas but one.
func (s *Store) dropStagings(r *replica, keep model.PointRef) error {
	entries, err := os.ReadDir(r.home.stagings())
	if err != nil {
		return ioFailure(err, "listing the staging areas in %s", r.home)
	}
	for _, e := range entries {
		if e.Name() == keep.String() {
			continue
		}
		if err := s.trash(filepath.Join(r.home.stagings(), e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// trash removes a folder so that it is either wholly there or gone by its name. A missing one is success.
func (s *Store) trash(dir string) error {
	gone := dir
	if !strings.HasPrefix(filepath.Base(dir), trashMark) {
		gone = filepath.Join(filepath.Dir(dir), trashMark+filepath.Base(dir))
		if err := s.step("trash"); err != nil {
			return err
		}
		_ = os.RemoveAll(gone)
		if err := os.Rename(dir, gone); errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return ioFailure(err, "removing %s", dir)
		}
	}
	if err := s.step("trashed"); err != nil {
		return err
	}
	if err := os.RemoveAll(gone); err != nil {
		return ioFailure(err, "removing %s", gone)
	}
	return nil
}

// Discard drops what was staged of a point. A point that is committed keeps; nothing staged is success.
func (s *Store) Discard(ctx context.Context, vm model.VMRef, p model.PointRef) error {
	r, err := s.enterNow(ctx, vm, false)
	if err != nil {
		return unlessMissing(err)
	}
	defer r.leave()
	if r.open != nil && r.open.spec.PointRef == p {
		r.open.shut()
	}
	if _, committed := r.find(p); committed {
		return s.settle(r)
	}
	return s.trash(r.home.staging(p))
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(p)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return p, err
}
