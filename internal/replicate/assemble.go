package replicate

import (
	"context"
	"time"

	"understudy/internal/blockio/digest"
	"understudy/internal/link"
	"understudy/internal/model"
)

// assembler turns units into batches: unchanged blocks are dropped, zeroes become runs.
type assembler struct {
	*transfer
	b      *batch
	upTo   int64 // looked at
	marked int64 // the same, of the last batch
	since  time.Time
}

// assemble takes the units in order.
func (t *transfer) assemble(ctx context.Context) error {
	a := &assembler{transfer: t, upTo: t.from, marked: t.from, since: time.Now()}
	for u := range t.units {
		if err := a.take(ctx, u); err != nil {
			return err
		}
		if a.upTo = u.end(); a.upTo-a.marked < markSpan && time.Since(a.since) < markEvery {
			continue
		}
		if err := a.flush(ctx); err != nil {
			return err
		}
	}
	if !t.planned { // what was not planned was not looked at, and must not be marked as if it were
		return nil
	}
	a.upTo = t.Size
	return a.flush(ctx)
}

func (a *assembler) take(ctx context.Context, u *unit) error {
	if u.zero.Length > 0 {
		return a.op(ctx, link.OpClear, u.zero)
	}
	select {
	case <-u.ready:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if u.asked != nil {
		if err := a.s.Wait(ctx, u.asked); err != nil {
			return err
		}
	}
	a.read += int64(u.read)
	if whole, err := a.whole(ctx, u); whole || err != nil {
		return err
	}
	at, block := 0, 0
	for _, r := range u.runs {
		for off, end := r.Offset, r.Offset+r.Length; off < end; off += model.BlockSize {
			n := int(min(model.BlockSize, end-off))
			p := zeroBlock[:n]
			if u.buf != nil {
				p = u.buf[at : at+n]
			}
			if err := a.block(ctx, off, p, u.source[block], u.was(block)); err != nil {
				return err
			}
			at, block = at+n, block+1
		}
	}
	if u.buf != nil {
		a.readBufs <- u.buf
	}
	return nil
}

var zeroBlock [model.BlockSize]byte

// was is the parent's digest of a block; without a parent all was zero.
func (u *unit) was(block int) model.Digest {
	if u.parent == nil {
		return model.Digest{}
	}
	return u.parent[block]
}

// whole sends a unit that is one run, every block of it changed and not zero, without copying it.
func (a *assembler) whole(ctx context.Context, u *unit) (bool, error) {
	if len(u.runs) != 1 || u.n < smallBatch || u.n > a.lane.batch() {
		return false, nil
	}
	for i, d := range u.source {
		if d == (model.Digest{}) || d == u.was(i) {
			return false, nil
		}
	}
	for at, r := 0, u.runs[0]; at < u.n; at += model.BlockSize {
		if err := a.judge(ctx, r.Offset+int64(at), min(model.BlockSize, u.n-at), u.was(at/model.BlockSize)); err != nil {
			return false, err
		}
	}
	if a.b != nil && len(a.b.Ops) > 0 {
		if err := a.flush(ctx); err != nil {
			return false, err
		}
	}
	if err := a.begin(ctx); err != nil {
		return false, err
	}
	a.readBufs <- a.b.buf
	a.b.buf = u.buf
	a.b.RawLen = u.n
	a.b.Digests = u.source
	a.b.Ops = append(a.b.Ops, link.Op{Kind: link.OpData, Run: u.runs[0]})
	a.changed += int64(u.n)
	a.upTo = u.end()
	return true, a.flush(ctx)
}

// judge counts a block that is on the standby neither as it was nor as it is.
func (a *assembler) judge(ctx context.Context, off int64, n int, there model.Digest) error {
	if a.before == nil {
		return nil
	}
	was, err := a.before.block(ctx, off, n)
	if err != nil {
		return sourceFailure(err, a.Target, "reading the point that the VM came with, of")
	}
	if digest.Block(a.s.Seed(), was) != there {
		a.lost += int64(n)
	}
	return nil
}

func (a *assembler) block(ctx context.Context, off int64, p []byte, is, was model.Digest) error {
	if is == was {
		return nil
	}
	a.changed += int64(len(p))
	if err := a.judge(ctx, off, len(p), was); err != nil {
		return err
	}
	run := model.Run{Offset: off, Length: int64(len(p))}
	if is == (model.Digest{}) {
		return a.op(ctx, link.OpZero, run)
	}
	if a.b != nil && a.b.RawLen+len(p) > a.lane.batch() {
		if err := a.flush(ctx); err != nil {
			return err
		}
	}
	if err := a.op(ctx, link.OpData, run); err != nil {
		return err
	}
	a.b.RawLen += copy(a.b.buf[a.b.RawLen:], p)
	a.b.Digests = append(a.b.Digests, is)
	return nil
}

// op adds an operation to the batch, joined with the last one where it goes on from there.
func (a *assembler) op(ctx context.Context, kind link.OpKind, run model.Run) error {
	if a.b != nil && len(a.b.Ops) > 0 {
		if last := &a.b.Ops[len(a.b.Ops)-1]; last.Kind == kind && last.Offset+last.Length == run.Offset {
			last.Length += run.Length
			a.upTo = run.Offset + run.Length
			return nil
		}
		if len(a.b.Ops) >= link.MaxOps {
			if err := a.flush(ctx); err != nil {
				return err
			}
		}
	}
	if err := a.begin(ctx); err != nil {
		return err
	}
	a.b.Ops = append(a.b.Ops, link.Op{Kind: kind, Run: run})
	a.upTo = run.Offset + run.Length
	return nil
}

func (a *assembler) begin(ctx context.Context) error {
	if a.b != nil {
		return nil
	}
	buf, err := buffer(ctx, a.batchBufs)
	if err != nil {
		return err
	}
	a.b = &batch{Batch: link.Batch{Disk: a.index}, buf: buf, ready: make(chan struct{})}
	return nil
}

// flush hands the batch on; without operations it is a mark of how far the disk was looked at.
func (a *assembler) flush(ctx context.Context) error {
	if a.b == nil && a.upTo == a.marked {
		return nil
	}
	if err := a.begin(ctx); err != nil {
		return err
	}
	b := a.b
	a.b = nil
	b.UpTo, b.read = a.upTo, a.read
	buf := b.buf
	b.Payload = buf[:b.RawLen]
	b.Done = func() { a.batchBufs <- buf }
	if !a.shrink.off && b.RawLen >= minCompress {
		// Taken here, in order: a later batch must not have the space that an earlier one waits for.
		var err error
		if b.space, err = buffer(ctx, a.packBufs); err != nil {
			return err
		}
	}
	a.marked, a.since = a.upTo, time.Now()
	if err := give(ctx, a.batches, b); err != nil {
		return err
	}
	return give(ctx, a.toPack, b)
}
