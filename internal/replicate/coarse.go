package replicate

import (
	"context"

	"understudy/internal/blockio/digest"
	"understudy/internal/link"
	"understudy/internal/model"
)

// A resync compares from coarse to fine: one digest for each cell of 1 MiB, then for each 64 KiB of a cell that differs, then
// for each block of what differs of those. Where two disks are mostly equal, what crosses the wire is what differs and
// some hundred bytes for each place, not 16 bytes for each block.
const (
	cellSize  = unitSize
	cellGrain = link.MaxGrain
	midGrain  = 4
	midBlocks = 1 << midGrain
	// windowCells are asked for at once.
	windowCells = 256
)

// window is the standby's digests of neighbouring cells.
type window struct {
	from  int64
	asked *link.Reply
	cells []model.Digest
}

// cell is how a unit of a resync is filled and compared.
type cell struct {
	data   []model.Run // to be read; the rest of the unit is zeroes
	window *window     // nil for a part of a cell, where an earlier session ended
}

// layCells makes a unit of each cell of the disk from where the session resumes.
func (t *transfer) layCells(ctx context.Context) error {
	var w *window
	at, data := t.from, []model.Run(nil)
	launch := func(end int64) error {
		u := &unit{runs: []model.Run{{Offset: at, Length: end - at}}, cell: &cell{data: data}, ready: make(chan struct{})}
		at, data = end, nil
		var err error
		if first := u.runs[0].Offset; first%cellSize == 0 {
			if w == nil || first >= w.from+windowCells*cellSize {
				if w, err = t.ask(ctx, first); err != nil {
					return err
				}
			}
			u.cell.window = w
		}
		return t.launchCell(ctx, u)
	}
	boundary := func() int64 { return min((at/cellSize+1)*cellSize, t.Size) }
	err := t.plan(ctx, t.from, func(p piece) error {
		for end := p.Offset + p.Length; p.Offset < end; {
			for p.Offset >= boundary() && at < t.Size {
				if err := launch(boundary()); err != nil {
					return err
				}
			}
			n := min(end, boundary()) - p.Offset
			if !p.zero {
				data = append(data, model.Run{Offset: p.Offset, Length: n})
			}
			p.Offset += n
		}
		return nil
	})
	for err == nil && at < t.Size {
		err = launch(boundary())
	}
	return err
}

// ask asks for the digests of the cells from an offset on.
func (t *transfer) ask(ctx context.Context, from int64) (*window, error) {
	n := min(windowCells*cellSize, t.Size-from)
	w := &window{from: from, cells: make([]model.Digest, (n+cellSize-1)/cellSize)}
	if err := t.lane.pass(ctx, len(w.cells)*digest.Size); err != nil {
		return nil, err
	}
	var err error
	w.asked, err = t.s.LookAt(ctx, t.index, cellGrain, []model.Run{{Offset: from, Length: n}}, w.cells)
	return w, err
}

func (t *transfer) launchCell(ctx context.Context, u *unit) error {
	u.n = int(u.runs[0].Length)
	for _, r := range u.cell.data {
		u.read += int(r.Length)
	}
	if u.read > 0 {
		var err error
		if u.buf, err = buffer(ctx, t.readBufs); err != nil {
			return err
		}
	}
	u.source, u.parent = make([]model.Digest, u.blocks()), make([]model.Digest, u.blocks())
	if err := give(ctx, t.toRead, u); err != nil {
		return err
	}
	return give(ctx, t.units, u)
}

// fillCell reads a cell, and finds the standby's digests of what differs there; of what does not it takes its own.
func (t *transfer) fillCell(ctx context.Context, u *unit) error {
	run := u.runs[0]
	if u.buf != nil {
		pos := run.Offset
		for _, r := range u.cell.data {
			clear(u.buf[pos-run.Offset : r.Offset-run.Offset])
			for pos = r.Offset; pos < r.Offset+r.Length; {
				n := min(r.Offset+r.Length-pos, readSize)
				if err := t.source.ReadAt(ctx, u.buf[pos-run.Offset:pos-run.Offset+n], pos); err != nil {
					return sourceFailure(err, t.Target, "reading")
				}
				pos += n
			}
		}
		clear(u.buf[pos-run.Offset : run.Length])
		digest.Blocks(t.s.Seed(), u.buf[:run.Length], u.source)
	}
	copy(u.parent, u.source)
	differ := []model.Run{run}
	if w := u.cell.window; w != nil {
		if err := t.s.Wait(ctx, w.asked); err != nil {
			return err
		}
		if w.cells[(run.Offset-w.from)/cellSize] == digest.Fold(t.s.Seed(), u.source) {
			return nil
		}
		var err error
		if differ, err = t.closer(ctx, u); err != nil || len(differ) == 0 {
			return err
		}
	}
	return t.closest(ctx, u, differ)
}

// closer finds the parts of 64 KiB of a cell that differ.
func (t *transfer) closer(ctx context.Context, u *unit) ([]model.Run, error) {
	run := u.runs[0]
	theirs := make([]model.Digest, (len(u.source)+midBlocks-1)/midBlocks)
	if err := t.look(ctx, midGrain, u.runs, theirs); err != nil {
		return nil, err
	}
	var differ []model.Run
	for i, d := range theirs {
		from, to := i*midBlocks, min((i+1)*midBlocks, len(u.source))
		if d == digest.Fold(t.s.Seed(), u.source[from:to]) {
			continue
		}
		off := run.Offset + int64(from)*model.BlockSize
		part := model.Run{Offset: off, Length: min(int64(to-from)*model.BlockSize, run.Offset+run.Length-off)}
		if last := len(differ) - 1; last >= 0 && differ[last].Offset+differ[last].Length == off {
			differ[last].Length += part.Length
		} else {
			differ = append(differ, part)
		}
	}
	return differ, nil
}

// closest takes the standby's digests of the blocks of runs.
func (t *transfer) closest(ctx context.Context, u *unit, runs []model.Run) error {
	n := 0
	for _, r := range runs {
		n += int(digest.Count(r.Length))
	}
	theirs := make([]model.Digest, n)
	if err := t.look(ctx, 0, runs, theirs); err != nil {
		return err
	}
	for _, r := range runs {
		k := int(digest.Count(r.Length))
		copy(u.parent[(r.Offset-u.runs[0].Offset)/model.BlockSize:], theirs[:k])
		theirs = theirs[k:]
	}
	return nil
}

func (t *transfer) look(ctx context.Context, grain int, runs []model.Run, dst []model.Digest) error {
	if err := t.lane.pass(ctx, len(dst)*digest.Size); err != nil {
		return err
	}
	asked, err := t.s.LookAt(ctx, t.index, grain, runs, dst)
	if err != nil {
		return err
	}
	return t.s.Wait(ctx, asked)
}
