package replicate

import (
	"context"
	"errors"

	"understudy/internal/blockio"
	"understudy/internal/link"
	"understudy/internal/model"
)

// piece is a stretch to look at: data to be read, or known to be zeroes. It is made of whole blocks.
type piece struct {
	model.Run
	zero bool
}

// bigExtent is from where on a dirty extent is worth the question whether it is a hole: a guest that trims its disk
// dirties all of it.
const bigExtent = 1 << 20

// span is how much is asked of a map at once, so that a map of a large disk is no long call.
const span = 64 << 30

// plan visits the pieces of the disk from offset from on, in increasing order.
func (d *disk) plan(ctx context.Context, from int64, visit func(piece) error) error {
	switch d.Mode {
	case model.ModeDelta:
		return d.dirty(ctx, from, visit)
	case model.ModeResync:
		return d.allocated(ctx, from, d.Size, visit)
	case model.ModeFull:
		return d.allocated(ctx, from, d.Size, func(p piece) error {
			if p.zero {
				return nil
			}
			return visit(p)
		})
	}
	return model.Fail(model.InvalidArgument, nil, "disk %s has the unknown mode %q", d.Target, d.Mode)
}

// dirty visits what the bitmap says was written. An area by which the disk was grown reads clean unless it was written,
// and the standby has zeroes there.
func (d *disk) dirty(ctx context.Context, from int64, visit func(piece) error) error {
	pos := from
	return d.ask(ctx, blockio.DirtyBitmap, from, d.Size, func(e blockio.Extent) error {
		if e.Kind == blockio.Clean {
			return nil
		}
		r := d.outward(e.Offset, e.End(), pos)
		if r.Length <= 0 {
			return nil
		}
		pos = r.Offset + r.Length
		if r.Length < bigExtent {
			return visit(piece{Run: r})
		}
		visited := false
		err := d.allocated(ctx, r.Offset, pos, func(p piece) error { visited = true; return visit(p) })
		if !visited && errors.Is(err, blockio.ErrNoMap) {
			return visit(piece{Run: r})
		}
		return err
	})
}

// allocated visits all of [from, to), whose ends are at blocks: zero pieces shrink to whole blocks, data takes the rest.
func (d *disk) allocated(ctx context.Context, from, to int64, visit func(piece) error) error {
	pos := from
	var zero model.Run // held back: Zero and Hole side by side are one
	flush := func() error {
		z := zero
		zero = model.Run{}
		start := (z.Offset + model.BlockSize - 1) &^ (model.BlockSize - 1)
		end := z.Offset + z.Length
		if end != d.Size {
			end &^= model.BlockSize - 1
		}
		if start = max(start, pos); start >= end {
			return nil
		}
		pos = end
		return visit(piece{model.Run{Offset: start, Length: end - start}, true})
	}
	err := d.ask(ctx, blockio.Allocation, from, to, func(e blockio.Extent) error {
		if e.Kind.ReadsZero() {
			if zero.Length == 0 {
				zero.Offset = e.Offset
			}
			zero.Length = e.End() - zero.Offset
			return nil
		}
		if err := flush(); err != nil {
			return err
		}
		r := d.outward(e.Offset, e.End(), pos)
		if r.Length <= 0 {
			return nil
		}
		pos = r.Offset + r.Length
		return visit(piece{Run: r})
	})
	if err != nil {
		return err
	}
	return flush()
}

// outward makes whole blocks of [from, to), not before pos.
func (d *disk) outward(from, to, pos int64) model.Run {
	from = max(from&^(model.BlockSize-1), pos)
	to = min((to+model.BlockSize-1)&^(model.BlockSize-1), d.Size)
	return model.Run{Offset: from, Length: to - from}
}

func (d *disk) ask(ctx context.Context, m blockio.Map, from, to int64, visit func(blockio.Extent) error) error {
	for ; from < to; from += span {
		var own error // of visit, which is not the source's
		err := d.source.Map(ctx, m, from, min(span, to-from), func(e blockio.Extent) error {
			own = visit(e)
			return own
		})
		switch {
		case own != nil:
			return own
		case err != nil && m == blockio.Allocation && errors.Is(err, blockio.ErrNoMap):
			return err
		case err != nil:
			return sourceFailure(err, d.Target, "mapping")
		}
	}
	return nil
}

// measure finds how much there is to look at.
func (d *disk) measure(ctx context.Context) error {
	if d.Mode == model.ModeDelta && d.DirtyBytes >= 0 {
		d.total = min(d.DirtyBytes, d.Size)
		return nil
	}
	return d.plan(ctx, 0, func(p piece) error {
		if !p.zero {
			d.total += p.Length
		}
		return nil
	})
}

// unit is what is read, hashed and compared at once: a buffer of runs, or a run of zeroes, which has no buffer.
type unit struct {
	zero   model.Run
	runs   []model.Run
	buf    []byte // the runs' bytes, one after the other
	n      int    // bytes used of it
	read   int    // bytes that are read for it
	cell   *cell  // nil but in a resync
	source []model.Digest
	parent []model.Digest
	asked  *link.Reply
	ready  chan struct{} // closed when buf and source are filled
}

const unitSize = link.MaxBatch

func (u *unit) blocks() int {
	n := 0
	for _, r := range u.runs {
		n += int((r.Length + model.BlockSize - 1) / model.BlockSize)
	}
	return n
}

func (u *unit) end() int64 {
	if u.zero.Length > 0 {
		return u.zero.Offset + u.zero.Length
	}
	last := u.runs[len(u.runs)-1]
	return last.Offset + last.Length
}
