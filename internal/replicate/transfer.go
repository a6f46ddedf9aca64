package replicate

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"understudy/internal/blockio"
	"understudy/internal/blockio/digest"
	"understudy/internal/link"
	"understudy/internal/model"
)

// Buffers of a transfer. Each is of unitSize and allocated when first needed; this and what gRPC holds is all that a
// transfer keeps in memory, whatever the size of the disk.
const (
	unitsInFlight   = 12 // read, or waiting for the parent's digests
	batchesInFlight = 6  // being filled, compressed or sent
	readers         = 8  // QEMU must not run dry while what it gave is hashed
	compressors     = 2
	queue           = 64 // units in order; those of zeroes have no buffer
	// readSize is the most that is read at once: QEMU maps and unmaps memory for each request of a megabyte, which costs it
	// as much again as the read, and what was just read is hashed while it is in the cache.
	readSize = 512 << 10

	markSpan  = 64 << 20               // disk that may be looked at without a word to the standby
	markEvery = 500 * time.Millisecond // the same in time
	sayEvery  = 200 * time.Millisecond // progress
)

// transfer is one disk on its way: planner → readers → assembler → compressors → sender.
type transfer struct {
	*disk
	s        *link.Session
	lane     *Lane
	shrink   *shrink
	progress func(Progress)
	before   *before
	compare  bool // with the parent point, block by block

	units   chan *unit // in order
	toRead  chan *unit
	batches chan *batch // in order
	toPack  chan *batch

	readBufs, batchBufs, packBufs chan []byte // free ones; nil is one that is yet to be allocated

	planned bool // the planner came to the end of the disk; set before units is closed

	from    int64 // resumed here
	wire    int64 // bytes on the wire before this disk
	read    int64 // of the assembler's units
	changed int64
	lost    int64 // of it, what was written there and not replicated
	said    time.Time
}

// batch is a link.Batch on its way to the wire.
type batch struct {
	link.Batch
	buf   []byte
	space []byte // to compress into; nil when it is not tried
	read  int64  // bytes of the disk's data looked at so far
	ready chan struct{}
}

func newTransfer(s *link.Session, d *disk, l *Lane, sh *shrink, was blockio.Source, progress func(Progress)) *transfer {
	t := &transfer{
		disk: d, s: s, before: newBefore(was), lane: l, shrink: sh, progress: progress, compare: d.Mode == model.ModeDelta,
		units: make(chan *unit, queue), toRead: make(chan *unit, unitsInFlight),
		batches: make(chan *batch, batchesInFlight), toPack: make(chan *batch, batchesInFlight),
		readBufs: make(chan []byte, unitsInFlight), batchBufs: make(chan []byte, batchesInFlight), packBufs: make(chan []byte, batchesInFlight),
		from: s.Resume(d.index),
	}
	for _, free := range []chan []byte{t.readBufs, t.batchBufs, t.packBufs} {
		for range cap(free) {
			free <- nil
		}
	}
	sent, received := s.Wire()
	t.wire = sent + received
	return t
}

// buffer takes a free buffer; there is always one in time, because each stage gives its own back without waiting for an
// earlier one.
func buffer(ctx context.Context, free chan []byte) ([]byte, error) {
	select {
	case b := <-free:
		if b == nil {
			b = make([]byte, unitSize)
		}
		return b, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func give[T any](ctx context.Context, to chan T, v T) error {
	select {
	case to <- v:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (t *transfer) run(ctx context.Context) (DiskStats, error) {
	err := t.flow(ctx)
	if err == nil {
		err = t.s.Finish(ctx, t.index)
	}
	if cause := t.s.Err(); cause != nil && err != nil && ctx.Err() == nil {
		err = cause // rather than what the end of the session brought about
	}
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = context.Cause(ctx)
	}
	sent, received := t.s.Wire()
	return DiskStats{
		Target: t.Target, ReadBytes: t.read, ChangedBytes: t.changed + t.s.Cleared(t.index), SentBytes: sent + received - t.wire,
		UnreplicatedBytes: t.lost,
	}, err
}

func (t *transfer) flow(ctx context.Context) error {
	if t.from >= t.Size {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(t.s.Context(), func() { cancel(t.s.Err()) })()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(t.units)
		defer close(t.toRead)
		lay := t.lay
		if t.Mode == model.ModeResync {
			lay = t.layCells
		}
		err := lay(ctx)
		t.planned = err == nil
		return err
	})
	for range readers {
		g.Go(func() error { return t.fill(ctx) })
	}
	g.Go(func() error {
		defer close(t.batches)
		defer close(t.toPack)
		return t.assemble(ctx)
	})
	for range compressors {
		g.Go(t.pack)
	}
	g.Go(func() error { return t.send(ctx) })
	return g.Wait()
}

// lay makes units of the plan, asks for the parent's digests, and hands the units to the readers.
func (t *transfer) lay(ctx context.Context) error {
	var u *unit
	flush := func() error {
		if u == nil {
			return nil
		}
		full := u
		u = nil
		return t.launch(ctx, full)
	}
	err := t.plan(ctx, t.from, func(p piece) error {
		if p.zero {
			if err := flush(); err != nil {
				return err
			}
			return give(ctx, t.units, &unit{zero: p.Run})
		}
		for p.Length > 0 {
			if u == nil {
				buf, err := buffer(ctx, t.readBufs)
				if err != nil {
					return err
				}
				u = &unit{buf: buf, ready: make(chan struct{})}
			}
			n := min(p.Length, int64(unitSize-u.n))
			if last := len(u.runs) - 1; last >= 0 && u.runs[last].Offset+u.runs[last].Length == p.Offset {
				u.runs[last].Length += n
			} else {
				u.runs = append(u.runs, model.Run{Offset: p.Offset, Length: n})
			}
			u.n += int(n)
			p.Offset, p.Length = p.Offset+n, p.Length-n
			if unitSize-u.n < model.BlockSize {
				if err := flush(); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}

func (t *transfer) launch(ctx context.Context, u *unit) error {
	n := u.blocks()
	u.read = u.n
	u.source = make([]model.Digest, n)
	if t.compare {
		u.parent = make([]model.Digest, n)
		if err := t.lane.pass(ctx, n*digest.Size); err != nil {
			return err
		}
		var err error
		if u.asked, err = t.s.Look(ctx, t.index, u.runs, u.parent); err != nil {
			return err
		}
	}
	if err := give(ctx, t.toRead, u); err != nil {
		return err
	}
	return give(ctx, t.units, u)
}

// fill reads and hashes units.
func (t *transfer) fill(ctx context.Context) error {
	seed := t.s.Seed()
	for u := range t.toRead {
		if u.cell != nil {
			if err := t.fillCell(ctx, u); err != nil {
				return err
			}
			close(u.ready)
			continue
		}
		at, block := 0, 0
		for _, r := range u.runs {
			for r.Length > 0 {
				n := min(r.Length, readSize)
				p := u.buf[at : at+int(n)]
				if err := t.source.ReadAt(ctx, p, r.Offset); err != nil {
					return sourceFailure(err, t.Target, "reading")
				}
				digest.Blocks(seed, p, u.source[block:])
				at, block = at+len(p), block+int(digest.Count(n))
				r.Offset, r.Length = r.Offset+n, r.Length-n
			}
		}
		close(u.ready)
	}
	return nil
}

// pack compresses batches.
func (t *transfer) pack() error {
	for b := range t.toPack {
		t.encode(b)
		close(b.ready)
	}
	return nil
}

func (t *transfer) encode(b *batch) {
	if b.space == nil {
		return
	}
	small, ok := t.shrink.pack(b.buf[:b.RawLen], b.space)
	if !ok {
		t.packBufs <- b.space
		return
	}
	b.Encoding, b.Payload = link.Zstd, small
	b.Done = func() { t.packBufs <- b.space }
	t.batchBufs <- b.buf
}

// send puts batches on the wire, in order.
func (t *transfer) send(ctx context.Context) error {
	for b := range t.batches {
		select {
		case <-b.ready:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		n := b.WireSize()
		begun := time.Now()
		if err := t.lane.pass(ctx, n); err != nil {
			return err
		}
		if err := t.s.Send(&b.Batch); err != nil {
			return err
		}
		t.shrink.sent(n, time.Since(begun))
		t.say(b.read, false)
	}
	t.say(t.total, true)
	return nil
}

func (t *transfer) say(done int64, last bool) {
	if t.progress == nil || !last && time.Since(t.said) < sayEvery {
		return
	}
	t.said = time.Now()
	sent, received := t.s.Wire()
	t.progress(Progress{Disk: t.Target, DoneBytes: min(done, t.total), TotalBytes: t.total, SentBytes: sent + received - t.wire})
}
