package recoverypoint

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"understudy/internal/model"
)

// Staging is a session that receives a point. Methods about different disks may run at the same time, and Digests beside
// any other; Write, WriteZeroes, Ack and Finish of one disk take turns.
type Staging struct {
	store *Store
	r     *replica
	spec  model.StagingSpec
	dir   string
	disks []*stagedDisk

	over context.Context // ends with the session
	end  context.CancelFunc

	mu   sync.Mutex
	dead error // why nothing more is received
}

func newStaging(s *Store, r *replica, spec model.StagingSpec, dir string) *Staging {
	st := &Staging{store: s, r: r, spec: spec, dir: dir}
	st.over, st.end = context.WithCancel(context.Background())
	newest, _ := r.newest()
	for _, d := range spec.Disks {
		st.disks = append(st.disks, newStagedDisk(s, r, dir, d, newest.Seq))
	}
	return st
}

// Seed is the seed of the replica's digests.
func (st *Staging) Seed() uint64 { return st.r.chain.Seed }

// Acked tells per target up to where a resumed session need not send again.
func (st *Staging) Acked() map[string]int64 {
	acked := make(map[string]int64, len(st.disks))
	for _, d := range st.disks {
		d.mu.Lock()
		acked[d.spec.Target] = d.ack.Acked
		d.mu.Unlock()
	}
	return acked
}

// Digests fills dst with the digests of the parent point from offset off on. Zero digests stand for blocks of zeroes, and
// for all there is no parent of: a full copy, and what lies beyond the parent's end.
func (st *Staging) Digests(ctx context.Context, target string, off int64, dst []model.Digest) error {
	d, err := st.disk(ctx, target)
	if err != nil {
		return err
	}
	if off < 0 || off%model.BlockSize != 0 || off > d.spec.Size {
		return model.Fail(model.InvalidArgument, nil, "digests of disk %s from offset %d", target, off).WithVM(st.spec.VM.Name)
	}
	if err := d.digests(ctx, off, dst); err != nil {
		return ioFailure(err, "reading the digests of disk %s", target).WithVM(st.spec.VM.Name)
	}
	return nil
}

// Write puts whole blocks into the image, with the digests that the source computed: one a block. Runs come in increasing
// order.
func (st *Staging) Write(ctx context.Context, target string, off int64, data []byte, digests []model.Digest) error {
	return st.WriteParts(ctx, target, off, [][]byte{data}, digests)
}

// WriteParts is Write of bytes that lie in pieces.
func (st *Staging) WriteParts(ctx context.Context, target string, off int64, parts [][]byte, digests []model.Digest) error {
	return st.do(ctx, target, "writing to disk "+target, func(ctx context.Context, d *stagedDisk) error {
		return d.write(ctx, off, parts, digests)
	})
}

// WriteZeroes makes whole blocks read as zeroes.
func (st *Staging) WriteZeroes(ctx context.Context, target string, off, length int64) error {
	return st.do(ctx, target, fmt.Sprintf("zeroing %d bytes at %d of disk %s", length, off, target), func(ctx context.Context, d *stagedDisk) error {
		return d.zero(ctx, off, length)
	})
}

// Ack says that everything below upTo is received or unchanged. It is journaled so that a later session goes on from
// there; because that needs a flush, not each call journals at once, but at least every half second or 64 MiB, and Close
// does. Acked of the later session is the truth.
func (st *Staging) Ack(ctx context.Context, target string, upTo int64) error {
	return st.do(ctx, target, fmt.Sprintf("acknowledging disk %s up to %d", target, upTo), func(ctx context.Context, d *stagedDisk) error {
		return d.acknowledge(ctx, upTo)
	})
}

// Finish says that the disk is complete and makes it durable. Done again it does nothing.
func (st *Staging) Finish(ctx context.Context, target string) error {
	return st.do(ctx, target, "completing disk "+target, func(ctx context.Context, d *stagedDisk) error {
		return d.finish(ctx)
	})
}

// Close ends the session; what was acknowledged stays for a later one. Further calls do nothing.
func (st *Staging) Close() error {
	st.end()
	st.r.interrupt()
	st.r.turn <- struct{}{}
	defer st.r.leave()
	st.shut()
	return nil
}

// shut ends the session. The turn is held.
func (st *Staging) shut() {
	st.end()
	st.mu.Lock()
	alive := st.dead == nil
	if alive {
		st.dead = model.Fail(model.StagingLost, nil, "the session that received point %s is over", st.spec.PointRef).WithVM(st.spec.VM.Name)
	}
	st.mu.Unlock()
	var wg sync.WaitGroup
	for _, d := range st.disks {
		wg.Go(func() { d.close(alive) })
	}
	wg.Wait()
	if st.r.open == st {
		st.r.open = nil
	}
}

// busy tells whether a disk may still have its chain open.
func (st *Staging) busy() bool {
	for _, d := range st.disks {
		d.mu.Lock()
		done := d.ack.Finished
		d.mu.Unlock()
		if !done {
			return true
		}
	}
	return false
}

func (st *Staging) disk(ctx context.Context, target string) (*stagedDisk, error) {
	st.mu.Lock()
	dead := st.dead
	st.mu.Unlock()
	if dead != nil {
		return nil, dead
	}
	if err := ctx.Err(); err != nil {
		return nil, model.Fail(model.Internal, err, "receiving point %s", st.spec.PointRef).WithVM(st.spec.VM.Name)
	}
	for _, d := range st.disks {
		if d.spec.Target == target {
			return d, nil
		}
	}
	return nil, model.Fail(model.InvalidArgument, nil, "point %s has no disk %q", st.spec.PointRef, target).WithVM(st.spec.VM.Name)
}

// do runs f on a disk. An error of the image ends the session, because what was written since the last journal may be
// lost; one that says the staged data itself is not to be trusted, or that there is no room, drops it.
func (st *Staging) do(ctx context.Context, target, what string, f func(context.Context, *stagedDisk) error) error {
	d, err := st.disk(ctx, target)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(st.over, cancel)()
	d.mu.Lock()
	if _, err = st.disk(ctx, target); err != nil { // the session ended meanwhile
		d.mu.Unlock()
		return err
	}
	err = f(ctx, d)
	d.mu.Unlock()
	var wrong *model.Failure
	switch {
	case err == nil:
		return nil
	case errors.As(err, &wrong) && wrong.Kind == model.InvalidArgument:
		return wrong.WithVM(st.spec.VM.Name)
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return model.Fail(model.Internal, err, "%s of point %s", what, st.spec.PointRef).WithVM(st.spec.VM.Name)
	}
	failure := ioFailure(err, "%s of point %s", what, st.spec.PointRef).WithVM(st.spec.VM.Name)
	st.mu.Lock()
	if st.dead == nil {
		st.dead = failure
	}
	st.mu.Unlock()
	if !keeps(err) {
		st.drop()
	}
	return failure
}

// drop removes what was staged.
func (st *Staging) drop() {
	st.r.turn <- struct{}{}
	defer st.r.leave()
	if st.r.open != st {
		return
	}
	st.shut()
	if err := st.store.trash(st.dir); err != nil {
		st.r.unsettled = true
	}
}
