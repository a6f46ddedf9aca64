// Package mem is a sparse disk in memory, for tests: a blockio.Source and
// blockio.Target with a dirty bitmap, and a hook for injecting faults and delays.
package mem

import (
	"context"
	"fmt"
	"sync"

	"understudy/internal/blockio"
)

var (
	_ blockio.Source = (*Disk)(nil)
	_ blockio.Target = (*Disk)(nil)
)

// PageSize is the grain of allocation and of the dirty bitmap, in bytes: that of a
// default qcow2 cluster.
const PageSize = 64 << 10

// Op names an operation to a hook.
type Op string

// The operations a hook is told of.
const (
	OpRead   Op = "read"
	OpWrite  Op = "write"
	OpZeroes Op = "write-zeroes"
	OpFlush  Op = "flush"
	OpMap    Op = "map"
)

// Hook is called before each operation that is in range, without a lock held, perhaps
// from many goroutines. Its error fails the operation, which then does nothing. It may
// block, and should heed ctx if it does.
type Hook func(ctx context.Context, op Op, off, length int64) error

// Disk is a disk in memory. Its methods are safe for concurrent use.
type Disk struct {
	size int64

	mu       sync.RWMutex
	pages    map[int64][]byte // by page number; absent reads as zeroes
	dirty    map[int64]bool   // nil: no bitmap
	readOnly bool
	closed   bool
	hook     Hook
	flushes  int
}

// New makes a disk of size bytes, all of it a hole, without a dirty bitmap. A negative
// size counts as 0.
func New(size int64) *Disk {
	return &Disk{size: max(size, 0), pages: make(map[int64][]byte)}
}

// SetHook sets the hook; nil removes it.
func (d *Disk) SetHook(h Hook) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hook = h
}

// SetReadOnly makes writes fail with blockio.ErrReadOnly, or not.
func (d *Disk) SetReadOnly(ro bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.readOnly = ro
}

// StartBitmap starts a dirty bitmap with everything clean, or clears the one there is.
func (d *Disk) StartBitmap() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dirty = make(map[int64]bool)
}

// Flushes counts the flushes that succeeded.
func (d *Disk) Flushes() int {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.flushes
}

// Size implements blockio.Reader.
func (d *Disk) Size() int64 { return d.size }

// begin checks a request and calls the hook.
func (d *Disk) begin(ctx context.Context, op Op, off, length int64) error {
	if err := blockio.CheckRange(d.size, off, length); err != nil {
		return err
	}
	d.mu.RLock()
	hook, ro := d.hook, d.readOnly
	d.mu.RUnlock()
	if ro && (op == OpWrite || op == OpZeroes) {
		return fmt.Errorf("mem: %w", blockio.ErrReadOnly)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if hook != nil {
		if err := hook(ctx, op, off, length); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// pieces calls f for each page that [off, off+length) touches.
func pieces(off, length int64, f func(page, from, to int64)) {
	for end := off + length; off < end; {
		page := off / PageSize
		base := page * PageSize
		to := min(end, base+PageSize)
		f(page, off-base, to-base)
		off = to
	}
}

// ReadAt implements blockio.Reader.
func (d *Disk) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := d.begin(ctx, OpRead, off, int64(len(p))); err != nil {
		return err
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return fmt.Errorf("mem: %w", blockio.ErrClosed)
	}
	pieces(off, int64(len(p)), func(page, from, to int64) {
		dst := p[:to-from]
		p = p[to-from:]
		if src := d.pages[page]; src != nil {
			copy(dst, src[from:to])
		} else {
			clear(dst)
		}
	})
	return nil
}

// WriteAt implements blockio.Writer.
func (d *Disk) WriteAt(ctx context.Context, p []byte, off int64) error {
	return d.change(ctx, OpWrite, off, int64(len(p)), func(page, from, to int64) {
		if d.pages[page] == nil {
			d.pages[page] = make([]byte, PageSize)
		}
		copy(d.pages[page][from:to], p)
		p = p[to-from:]
	})
}

// WriteZeroes implements blockio.Writer; whole pages become holes.
func (d *Disk) WriteZeroes(ctx context.Context, off, length int64) error {
	return d.change(ctx, OpZeroes, off, length, func(page, from, to int64) {
		if from == 0 && (to == PageSize || page*PageSize+to == d.size) {
			delete(d.pages, page)
		} else if p := d.pages[page]; p != nil {
			clear(p[from:to])
		}
	})
}

func (d *Disk) change(ctx context.Context, op Op, off, length int64, f func(page, from, to int64)) error {
	if err := d.begin(ctx, op, off, length); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fmt.Errorf("mem: %w", blockio.ErrClosed)
	}
	pieces(off, length, func(page, from, to int64) {
		f(page, from, to)
		if d.dirty != nil {
			d.dirty[page] = true
		}
	})
	return nil
}

// Flush implements blockio.Writer.
func (d *Disk) Flush(ctx context.Context) error {
	if err := d.begin(ctx, OpFlush, 0, 0); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fmt.Errorf("mem: %w", blockio.ErrClosed)
	}
	d.flushes++
	return nil
}

// Map implements blockio.Mapper.
func (d *Disk) Map(ctx context.Context, m blockio.Map, off, length int64, visit func(blockio.Extent) error) error {
	if err := d.begin(ctx, OpMap, off, length); err != nil {
		return err
	}
	merger := blockio.Merger{Visit: visit}
	for end := off + length; off < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		page := off / PageSize
		kind, err := d.kind(m, page)
		if err != nil {
			return err
		}
		next := min(end, (page+1)*PageSize)
		if err := merger.Add(blockio.Extent{Offset: off, Length: next - off, Kind: kind}); err != nil {
			return err
		}
		off = next
	}
	if length == 0 {
		_, err := d.kind(m, 0)
		return err
	}
	return merger.Finish()
}

func (d *Disk) kind(m blockio.Map, page int64) (blockio.Kind, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	switch {
	case d.closed:
		return 0, fmt.Errorf("mem: %w", blockio.ErrClosed)
	case m == blockio.Allocation && d.pages[page] != nil:
		return blockio.Data, nil
	case m == blockio.Allocation:
		return blockio.Hole, nil
	case m == blockio.DirtyBitmap && d.dirty[page]:
		return blockio.Dirty, nil
	case m == blockio.DirtyBitmap && d.dirty != nil:
		return blockio.Clean, nil
	}
	return 0, fmt.Errorf("mem: %v: %w", m, blockio.ErrNoMap)
}

// Close implements blockio.Source. The content is kept: Reopen gives it back.
func (d *Disk) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	return nil
}

// Reopen undoes Close.
func (d *Disk) Reopen() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = false
}
