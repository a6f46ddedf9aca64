// Package verify proves a staging area on the standby (stage 3 of a cycle): everything that was written is read again,
// through a path of its own, and compared with the digests that the source computed. Without its receipt nothing is
// committed.
package verify

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"understudy/internal/blockio"
	"understudy/internal/blockio/digest"
	"understudy/internal/model"
)

const (
	// readers is how many reads of one disk are in flight.
	readers = 4
	// atOnce is how many disks are proved at a time. With a piece for each reader it bounds the memory.
	atOnce = 4
	// piece is the most that is read at once.
	piece = 1 << 20
	// mapFrom is how long a run of zeroes must be for a look at the map to be cheaper than reading it.
	mapFrom = 256 << 10
)

// Store is what the proof needs of the store of replicas.
type Store interface {
	// Staged gives the digest seed and the images of a staging area that was received to its end.
	Staged(ctx context.Context, vm model.VMRef, p model.PointRef) (seed uint64, images []model.Image, err error)
	// StagedRuns visits what was written to a disk in increasing order; digests are valid during the call only.
	StagedRuns(ctx context.Context, vm model.VMRef, p model.PointRef, target string, visit func(model.WrittenRun) error) (model.DiskReceipt, error)
	// OpenImage opens an image for reading, apart from whoever wrote it.
	OpenImage(ctx context.Context, img model.Image) (blockio.Source, error)
	// CheckImage looks for damage in the image's own structure.
	CheckImage(ctx context.Context, img model.Image) error
}

// Prove reads again what was staged of a point and gives the receipt, or VerifyMismatch with the disk and the offset
// where the copy differs. progress may be nil; it is called with the bytes compared so far, and with the bytes of the
// disks that have been begun as far as they are known, from several goroutines but never twice at a time.
func Prove(ctx context.Context, store Store, vm model.VMRef, p model.PointRef, progress func(done, total int64)) (model.Receipt, error) {
	seed, images, err := store.Staged(ctx, vm, p)
	if err != nil {
		return model.Receipt{}, err
	}
	receipt := model.Receipt{VM: vm, PointRef: p, Disks: make([]model.DiskReceipt, len(images))}
	tally := &tally{report: progress}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i, img := range images {
		group.Go(func() (err error) {
			d := disk{store: store, vm: vm, point: p, image: img, seed: seed, tally: tally}
			receipt.Disks[i], err = d.prove(gctx)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return model.Receipt{}, explain(err, vm, p)
	}
	receipt.ProvedAt = time.Now().UTC()
	return receipt, nil
}

func explain(err error, vm model.VMRef, p model.PointRef) error {
	var f *model.Failure
	if errors.As(err, &f) {
		if f.VM == "" {
			return f.WithVM(vm.Name)
		}
		return err
	}
	return model.Fail(model.Internal, err, "proving point %s", p).WithVM(vm.Name)
}

// tally adds up the progress of all disks.
type tally struct {
	done, total atomic.Int64
	busy        atomic.Bool
	report      func(done, total int64)
}

func (t *tally) add(done int64) {
	now := t.done.Add(done)
	if t.report != nil && t.busy.CompareAndSwap(false, true) {
		t.report(now, t.total.Load())
		t.busy.Store(false)
	}
}

// disk is the proof of one disk.
type disk struct {
	store Store
	vm    model.VMRef
	point model.PointRef
	image model.Image
	seed  uint64
	tally *tally
}

// job is a piece to compare; no digests: it must read as zeroes.
type job struct {
	run     model.Run
	digests []model.Digest
}

func (d *disk) prove(ctx context.Context) (model.DiskReceipt, error) {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return d.store.CheckImage(ctx, d.image) })
	jobs := make(chan job, readers)
	var receipt model.DiskReceipt
	group.Go(func() (err error) {
		defer close(jobs)
		receipt, err = d.plan(ctx, jobs)
		return err
	})
	group.Go(func() error { return d.compare(ctx, jobs) })
	if err := group.Wait(); err != nil {
		return model.DiskReceipt{}, err
	}
	return receipt, nil
}

// plan turns the log into jobs. What lies beyond the parent's end must read as zeroes where nothing was written, so for
// a disk that stands alone that is every gap.
func (d *disk) plan(ctx context.Context, jobs chan<- job) (model.DiskReceipt, error) {
	next := d.image.ParentSize / model.BlockSize * model.BlockSize
	if next < d.image.ParentSize { // the block that the parent ends in is not only tail
		next += model.BlockSize
	}
	gap := func(until int64) error {
		if until <= next {
			return nil
		}
		return send(ctx, jobs, job{run: model.Run{Offset: next, Length: until - next}})
	}
	receipt, err := d.store.StagedRuns(ctx, d.vm, d.point, d.image.Target, func(w model.WrittenRun) error {
		d.tally.total.Add(w.Length)
		if err := gap(w.Offset); err != nil {
			return err
		}
		next = max(next, w.Offset+w.Length)
		if w.Zero() {
			return send(ctx, jobs, job{run: w.Run})
		}
		for at, digests := w.Offset, w.Digests; len(digests) > 0; {
			n := min(len(digests), piece/model.BlockSize)
			length := min(int64(n)*model.BlockSize, w.Offset+w.Length-at)
			if err := send(ctx, jobs, job{model.Run{Offset: at, Length: length}, append([]model.Digest(nil), digests[:n]...)}); err != nil {
				return err
			}
			at, digests = at+length, digests[n:]
		}
		return nil
	})
	if err != nil {
		return receipt, err
	}
	return receipt, gap(d.image.Size)
}

func send(ctx context.Context, jobs chan<- job, j job) error {
	select {
	case jobs <- j:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// compare opens the image when there is something to compare, and does so until the jobs end.
func (d *disk) compare(ctx context.Context, jobs <-chan job) (err error) {
	first, ok := <-jobs
	if !ok {
		return nil
	}
	src, err := d.store.OpenImage(ctx, d.image)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	group, ctx := errgroup.WithContext(ctx)
	for i := range readers {
		group.Go(func() error {
			var buf []byte
			if i == 0 {
				if err := d.one(ctx, src, first, &buf); err != nil {
					return err
				}
			}
			for {
				select {
				case j, ok := <-jobs:
					if !ok {
						return nil
					}
					if err := d.one(ctx, src, j, &buf); err != nil {
						return err
					}
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		})
	}
	return group.Wait()
}

func (d *disk) one(ctx context.Context, src blockio.Source, j job, buf *[]byte) error {
	defer d.tally.add(j.run.Length)
	if len(j.digests) > 0 {
		p, err := read(ctx, src, j.run, buf)
		if err != nil {
			return err
		}
		for i, want := range j.digests {
			n := min(len(p), model.BlockSize)
			if digest.Block(d.seed, p[:n]) != want {
				return d.mismatch(j.run.Offset + int64(i)*model.BlockSize)
			}
			p = p[n:]
		}
		return nil
	}
	if j.run.Length < mapFrom {
		return d.zero(ctx, src, j.run, buf)
	}
	err := src.Map(ctx, blockio.Allocation, j.run.Offset, j.run.Length, func(e blockio.Extent) error {
		if e.Kind.ReadsZero() {
			return nil
		}
		return d.zero(ctx, src, model.Run{Offset: e.Offset, Length: e.Length}, buf)
	})
	if errors.Is(err, blockio.ErrNoMap) {
		return d.zero(ctx, src, j.run, buf)
	}
	return err
}

// zero reads a run that must be nothing but zeroes.
func (d *disk) zero(ctx context.Context, src blockio.Source, run model.Run, buf *[]byte) error {
	for run.Length > 0 {
		n := min(run.Length, piece)
		p, err := read(ctx, src, model.Run{Offset: run.Offset, Length: n}, buf)
		if err != nil {
			return err
		}
		if !digest.IsZero(p) {
			for i := range p {
				if p[i] != 0 {
					return d.mismatch(run.Offset + int64(i))
				}
			}
		}
		run.Offset, run.Length = run.Offset+n, run.Length-n
	}
	return nil
}

func read(ctx context.Context, src blockio.Source, run model.Run, buf *[]byte) ([]byte, error) {
	if int64(cap(*buf)) < run.Length {
		*buf = make([]byte, run.Length)
	}
	p := (*buf)[:run.Length]
	if err := src.ReadAt(ctx, p, run.Offset); err != nil {
		return nil, fmt.Errorf("reading back %d bytes at %d: %w", run.Length, run.Offset, err)
	}
	return p, nil
}

func (d *disk) mismatch(off int64) error {
	return model.Fail(model.VerifyMismatch, nil, "the copy of disk %s differs from the source at offset %d (point %s)", d.image.Target, off, d.point).
		WithVM(d.vm.Name).WithTry("nothing: the copy is dropped and replicated again; if it comes back, test the standby's disk and memory")
}
