package recoverypoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"understudy/internal/blockio/digest"
	"understudy/internal/durable"
	"understudy/internal/model"
)

// Commit turns a proved staging area into a recovery point. The rename of the manifest is the instant: before it the
// point does not exist, after it nothing can take it back. point says what the store cannot know: parent, primary, times,
// label, statistics, domain XML; the rest of it is filled in. A point that is committed already is returned as it is.
//
// The images are moved into the chain first, then the chain is written, then the manifest; a crash before it moves them
// back. The digests of the parent are patched after it, for which the space was taken before; a crash before the end of
// that patches them again, from the logs in the staging area, which goes last.
func (s *Store) Commit(ctx context.Context, receipt model.Receipt, point model.Point) (model.Point, error) {
	r, err := s.enterNow(ctx, receipt.VM, false)
	if err != nil {
		return model.Point{}, nothingStaged(err, receipt.VM, receipt.PointRef)
	}
	defer r.leave()
	if done, ok := r.find(receipt.PointRef); ok {
		return done, s.settle(r)
	}
	if r.open != nil {
		r.open.shut()
	}
	p, err := s.prepare(ctx, r, receipt, point)
	if err != nil {
		return model.Point{}, err
	}
	if err := s.publish(r, p); err != nil {
		r.unsettled = true // taken back, or found to be done after all, before the next use
		return model.Point{}, err
	}
	if err := s.settle(r); err != nil { // the point stands; the next use tries again
		r.unsettled = true
	}
	return p, nil
}

// prepare checks everything that can be checked and takes the space that is needed; it changes nothing that is read.
func (s *Store) prepare(ctx context.Context, r *replica, receipt model.Receipt, point model.Point) (model.Point, error) {
	vm, ref := receipt.VM, receipt.PointRef
	switch {
	case point.PointRef != ref || point.VM.UUID != vm.UUID:
		return point, model.Fail(model.InvalidArgument, nil, "the receipt is for point %s, not for %s", ref, point.PointRef).WithVM(vm.Name)
	case receipt.ProvedAt.IsZero():
		return point, model.Fail(model.InvalidArgument, nil, "point %s was not proved", ref).WithVM(vm.Name)
	}
	if err := r.fenced(vm, ref.Generation); err != nil {
		return point, err
	}
	if err := s.settle(r); err != nil {
		return point, err
	}
	spec, _, err := s.staged(r, vm, ref)
	if err != nil {
		return point, err
	}
	newest, _ := r.newest()
	if ref.Seq <= newest.Seq {
		return point, model.Fail(model.Conflict, nil, "point %s cannot follow on %s", ref, newest.PointRef).WithVM(vm.Name)
	}
	point.Format, point.DigestSeed, point.VerifiedAt = model.PointFormat, r.chain.Seed, receipt.ProvedAt
	point.Parent = 0
	if spec.Parent == newest.Seq {
		point.Parent = spec.Parent
	}
	if point.Disks, err = matchDisks(spec, point, receipt); err != nil {
		return point, model.Fail(model.InvalidArgument, err, "committing point %s", ref).WithVM(vm.Name)
	}
	if err := checkPoint(point); err != nil {
		return point, model.Fail(model.InvalidArgument, err, "committing point %s", ref).WithVM(vm.Name)
	}
	if err := s.step("prepare"); err != nil {
		return point, err
	}
	group, gctx := errgroup.WithContext(ctx)
	for i := range point.Disks {
		group.Go(func() error { return r.prepareDisk(gctx, &point.Disks[i], newest, ref, receipt) })
	}
	if err := group.Wait(); err != nil {
		if kind := model.KindOf(err); kind == model.VerifyMismatch || kind == model.ChainBroken {
			return point, err
		}
		return point, ioFailure(err, "preparing point %s", ref).WithVM(vm.Name)
	}
	return point, nil
}

// matchDisks joins what the caller knows of the disks with what was staged; all three must speak of the same ones.
func matchDisks(spec stagingSpec, point model.Point, receipt model.Receipt) ([]model.PointDisk, error) {
	if len(point.Disks) != len(spec.Disks) || len(receipt.Disks) != len(spec.Disks) {
		return nil, fmt.Errorf("%d disks staged, %d proved, %d to commit", len(spec.Disks), len(receipt.Disks), len(point.Disks))
	}
	disks := make([]model.PointDisk, 0, len(spec.Disks))
	for _, want := range spec.Disks {
		d, ok := diskOf(point, want.Target)
		if !ok || d.Size != 0 && d.Size != want.Size || d.Mode != "" && d.Mode != want.Mode {
			return nil, fmt.Errorf("disk %s was staged with %d bytes in mode %s, not %d in mode %q", want.Target, want.Size, want.Mode, d.Size, d.Mode)
		}
		if _, ok := receiptOf(receipt, want.Target); !ok {
			return nil, fmt.Errorf("disk %s was not proved", want.Target)
		}
		d.Size, d.Mode = want.Size, want.Mode
		disks = append(disks, d)
	}
	return disks, nil
}

func receiptOf(r model.Receipt, target string) (model.DiskReceipt, bool) {
	for _, d := range r.Disks {
		if d.Target == target {
			return d, true
		}
	}
	return model.DiskReceipt{}, false
}

// prepareDisk reads the log once: it must be the one that was proved. On the way it computes the digest of the whole
// disk, and either makes the digest table of a base or reserves what patching the parent's will need.
func (r *replica) prepareDisk(ctx context.Context, d *model.PointDisk, newest model.Point, ref model.PointRef, receipt model.Receipt) (err error) {
	var state digest.State
	var t *table
	dir := r.home.staging(ref)
	full := d.Mode == model.ModeFull
	if full {
		t, err = createTable(inStaging(dir, d.Target, digestsFile), tableHeader{r.chain.Seed, ref.Seq, digest.Count(d.Size)})
	} else {
		was, _ := diskOf(newest, d.Target)
		if state, err = digest.ParseState(was.StateDigest); err == nil {
			if t, err = openTable(r.home.digests(d.Target), true); err == nil {
				if err = t.isOf(r.chain.Seed, newest.Seq); err != nil {
					_ = t.close()
				}
			}
		}
		if err != nil {
			return model.Fail(model.ChainBroken, err, "disk %s cannot build on point %s", d.Target, newest.PointRef)
		}
	}
	if err != nil {
		return err
	}
	defer t.close()
	w := changes{table: t, seed: r.chain.Seed, state: &state, full: full, reserved: -1}
	sum, err := readWholeLog(inStaging(dir, d.Target, "log"), r.chain.Seed, d.Size, func(run model.WrittenRun) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return w.add(run)
	})
	if errors.Is(err, errLog) {
		return model.Fail(model.VerifyMismatch, err, "disk %s of point %s", d.Target, ref)
	}
	if err != nil {
		return err
	}
	proved, _ := receiptOf(receipt, d.Target)
	if proved.Log != sum.Sum || proved.Blocks != sum.Blocks || proved.Bytes != sum.Bytes {
		return model.Fail(model.VerifyMismatch, nil, "disk %s of point %s is not what was proved", d.Target, ref).WithTry("verify it again")
	}
	d.StateDigest = state.String()
	if full {
		return t.sync()
	}
	return nil
}

// changes follows a log along the parent's digests.
type changes struct {
	table    *table
	seed     uint64
	state    *digest.State
	full     bool
	reserved int64 // end of the table's bytes that have space
	old      []model.Digest
	buf      []byte
}

// stride is how many digests of a long run of zeroes are looked at together.
const stride = 4096

// reserveUnit is what is reserved of a table at once, so that scattered runs need few calls.
const reserveUnit = 64 << 10

func (c *changes) add(w model.WrittenRun) error {
	index, count := w.Offset/model.BlockSize, digest.Count(w.Length)
	for done := int64(0); done < count && !c.full; {
		n := min(count-done, stride)
		c.old = append(c.old[:0], make([]model.Digest, n)...)
		if err := c.table.read(index+done, c.old, &c.buf); err != nil {
			return err
		}
		for i := range n {
			var is model.Digest
			if !w.Zero() {
				is = w.Digests[done+i]
			}
			c.state.Change(c.seed, index+done+i, c.old[i], is)
		}
		done += n
	}
	if c.full {
		for i, is := range w.Digests {
			c.state.Change(c.seed, index+int64(i), model.Digest{}, is)
		}
		return c.table.patch(w, &c.buf)
	}
	if w.Zero() {
		return nil
	}
	from := (tableHeaderSize + index*int64(digest.Size)) / reserveUnit * reserveUnit
	end := (tableHeaderSize + (index+count)*int64(digest.Size) + reserveUnit - 1) / reserveUnit * reserveUnit
	if from = max(from, c.reserved); from >= end {
		return nil
	}
	c.reserved = end
	return c.table.reserve(from, end-from)
}

// publish moves the images into the chain and writes chain and manifest.
func (s *Store) publish(r *replica, p model.Point) error {
	manifest, err := json.MarshalIndent(p, "", "  ")
	if err != nil || len(manifest) >= maxManifest {
		return model.Fail(model.InvalidArgument, err, "the manifest of point %s cannot be written (%d bytes)", p.PointRef, len(manifest)).WithVM(p.VM.Name)
	}
	dir := r.home.staging(p.PointRef)
	c := r.chain.clone()
	c.VM, c.Floor = p.VM, max(c.Floor, p.Generation)
	for _, d := range p.Disks {
		name := layerName(p.PointRef, d.Mode)
		staged := inStaging(dir, d.Target, string(layerFormat(name)))
		if err := s.step("move-" + d.Target); err != nil {
			return err
		}
		if err := os.MkdirAll(r.home.disk(d.Target), 0o700); err != nil {
			return ioFailure(err, "making the folder of disk %s", d.Target)
		}
		if err := os.Rename(staged, r.home.layer(d.Target, name)); err != nil {
			return ioFailure(err, "moving disk %s into the chain", d.Target)
		}
		c.Disks[d.Target] = append(c.Disks[d.Target], layer{Seq: p.Seq, File: name, Base: d.Mode == model.ModeFull, Size: d.Size})
	}
	if err := s.step("moved"); err != nil {
		return err
	}
	// The staging area's own entries matter too: after a power loss its logs patch the digests.
	dirs := []string{dir, r.home.stagings(), filepath.Join(string(r.home), disksDir)}
	for _, d := range p.Disks {
		dirs = append(dirs, r.home.disk(d.Target))
	}
	var group errgroup.Group
	for _, d := range dirs {
		group.Go(func() error { return durable.SyncDir(d) })
	}
	var chained error
	group.Go(func() error { chained = s.writeChain(r, c); return nil })
	if err := group.Wait(); err != nil {
		return ioFailure(err, "syncing the folders of point %s", p.PointRef)
	}
	if chained != nil {
		return chained
	}
	if err := s.step("manifest"); err != nil {
		return err
	}
	if err := durable.WriteFile(r.home.point(p.Seq), append(manifest, '\n')); err != nil {
		return ioFailure(err, "writing the manifest of point %s", p.PointRef)
	}
	r.points = append(r.points, p)
	return s.step("manifest-written")
}

// settle finishes the newest commit: its digests are patched in, its staging area goes. Done again it comes to the same.
func (s *Store) settle(r *replica) error {
	newest, ok := r.newest()
	if !ok {
		return nil
	}
	dir := r.home.staging(newest.PointRef)
	if there, err := exists(dir); err != nil || !there {
		return err
	}
	var group errgroup.Group
	for _, d := range newest.Disks {
		group.Go(func() error {
			if err := s.step("digests-" + d.Target); err != nil {
				return err
			}
			if err := s.patchDisk(r, dir, newest, d); err != nil && !errors.Is(err, errTable) && !errors.Is(err, errLog) {
				return ioFailure(err, "updating the digests of disk %s", d.Target).WithVM(newest.VM.Name)
			}
			return nil // a damaged table is not of this point, so the disk gets a full copy
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return s.trash(dir)
}

// patchDisk brings the digest table of a disk to the newest point.
func (s *Store) patchDisk(r *replica, dir string, p model.Point, d model.PointDisk) error {
	path := r.home.digests(d.Target)
	if d.Mode == model.ModeFull {
		err := os.Rename(inStaging(dir, d.Target, digestsFile), path)
		if errors.Is(err, os.ErrNotExist) { // done before
			return nil
		}
		if err == nil {
			err = durable.SyncDir(r.home.disk(d.Target))
		}
		return err
	}
	t, err := openTable(path, true)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return errTable
		}
		return err
	}
	defer t.close()
	i := r.chain.at(d.Target, p.Seq)
	if i < 1 || t.head.Seed != r.chain.Seed || t.head.Seq != p.Seq && t.head.Seq != r.chain.Disks[d.Target][i-1].Seq {
		return errTable
	}
	head := tableHeader{Seed: t.head.Seed, Seq: t.head.Seq, Blocks: digest.Count(d.Size)}
	if head != t.head {
		if err := t.stamp(head); err != nil {
			return err
		}
	}
	var buf []byte
	if _, err := readWholeLog(inStaging(dir, d.Target, "log"), r.chain.Seed, d.Size, func(w model.WrittenRun) error {
		return t.patch(w, &buf)
	}); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return errTable
		}
		return err
	}
	if err := s.step("stamp-" + d.Target); err != nil {
		return err
	}
	head.Seq = p.Seq
	if err := t.stamp(head); err != nil {
		return err
	}
	return t.sync()
}
