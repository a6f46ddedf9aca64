package blockio

import (
	"context"
	"errors"
)

// Sentinels. Adapters wrap them; test with errors.Is.
var (
	// ErrOutOfRange: the request is not inside [0, Size]. Nothing was read or written.
	ErrOutOfRange = errors.New("blockio: request outside the disk")
	// ErrReadOnly: a write on a disk that was opened, or is exported, read-only.
	ErrReadOnly = errors.New("blockio: disk is read-only")
	// ErrClosed: the handle was closed, before or during the request, by this process.
	ErrClosed = errors.New("blockio: handle is closed")
	// ErrDisconnected: the connection to the server is gone (it died, sent nonsense,
	// or could no longer be written to). Requests that had no answer all fail with it;
	// whether their writes took effect is unknown. The handle stays dead: open a new one.
	ErrDisconnected = errors.New("blockio: connection to the block server is lost")
	// ErrNoMap: the disk cannot give the map asked for: it knows of no dirty bitmap, or
	// the server refused the metadata context. Treat as "everything may differ".
	ErrNoMap = errors.New("blockio: this map is not available")
)

// Reader reads a disk.
type Reader interface {
	// ReadAt fills p from offset off, wholly or with an error; after an error the
	// content of p is undefined. Safe for concurrent use, with many calls in flight.
	//
	// When ctx ends the call returns soon with an error matching ctx.Err(), and from
	// the moment it returns nothing writes to p any more: the caller may reuse p.
	// len(p) may be any size, 0 included; an adapter splits what is too large.
	ReadAt(ctx context.Context, p []byte, off int64) error

	// Size is the size of the disk in bytes, fixed when the handle was opened. It
	// need not be a multiple of any block size.
	Size() int64
}

// Writer reads and writes a disk.
type Writer interface {
	Reader

	// WriteAt writes all of p at offset off, or fails with the range in an undefined
	// state. Safe for concurrent use; of two overlapping writes in flight either may
	// win. p is not kept and not changed after the call returns. A write that was
	// cancelled by ctx may or may not take effect, now or later, until a Flush that
	// began after it returned has succeeded.
	// Durable only after Flush.
	WriteAt(ctx context.Context, p []byte, off int64) error

	// WriteZeroes makes [off, off+length) read as zeroes, releasing the space where
	// the disk can (the range may then map as Hole or Zero). Otherwise as WriteAt.
	WriteZeroes(ctx context.Context, off, length int64) error

	// Flush makes every write that had returned before the call durable against a
	// power loss, as far as the layers below tell the truth. It does not cover the
	// folder entry of a new file. On a read-only disk it does nothing.
	Flush(ctx context.Context) error
}

// Map names what a Mapper is asked about.
type Map uint8

const (
	// Allocation asks where data is: extents of kind Data, Zero and Hole.
	Allocation Map = iota + 1
	// DirtyBitmap asks what changed since the bitmap the handle was opened with
	// started: extents of kind Dirty and Clean.
	DirtyBitmap
)

// Kind says what an Extent is.
type Kind uint8

// The kinds of extents. A Mapper never reports the zero Kind.
const (
	// Data: must be read to know it (it may still read as zeroes).
	Data Kind = iota + 1
	// Zero: reads as zeroes and has space reserved for it.
	Zero
	// Hole: reads as zeroes and uses no space.
	Hole
	// Dirty: may have been written since the bitmap started.
	Dirty
	// Clean: was not written since the bitmap started. After a disk was grown the
	// new area reads Clean too (a fact of QEMU): compare the size as well.
	Clean
)

// ReadsZero tells whether the whole extent is known to read as zeroes.
func (k Kind) ReadsZero() bool { return k == Zero || k == Hole }

// String gives the lower-case name of the kind.
func (k Kind) String() string {
	switch k {
	case Data:
		return "data"
	case Zero:
		return "zero"
	case Hole:
		return "hole"
	case Dirty:
		return "dirty"
	case Clean:
		return "clean"
	}
	return "invalid"
}

// String gives the lower-case name of the map.
func (m Map) String() string {
	switch m {
	case Allocation:
		return "allocation"
	case DirtyBitmap:
		return "dirty-bitmap"
	}
	return "invalid"
}

// Extent is a run of bytes of one kind.
type Extent struct {
	Offset int64 // first byte
	Length int64 // always > 0
	Kind   Kind
}

// End is the offset of the first byte after the extent.
func (e Extent) End() int64 { return e.Offset + e.Length }

// Mapper tells which parts of a disk matter.
type Mapper interface {
	// Map calls visit for consecutive extents that cover exactly [off, off+length):
	// in order, without gap or overlap, two neighbours never of the same kind, and
	// clipped to the range. length 0 visits nothing.
	//
	// The map is fetched page by page, so memory is bounded whatever the size of the
	// disk. visit runs on the caller's goroutine with no lock held: it may use the
	// same handle. An error from visit ends the call and is returned as it is.
	// On an error some extents may have been visited; those were right.
	// A map the handle does not have gives ErrNoMap before any visit.
	//
	// While the disk is being written the map is a mix of before and after.
	Map(ctx context.Context, m Map, off, length int64, visit func(Extent) error) error
}

// Source is what a replication reads from: a frozen or quiet disk.
type Source interface {
	Reader
	Mapper
	// Close releases the handle and waits for everything it started; requests in
	// flight finish or fail with ErrClosed, later ones fail with it. It implies no Flush.
	// Further calls do nothing.
	Close() error
}

// Target is what a replication writes to.
type Target interface {
	Writer
	Mapper
	// Close is as for Source: call Flush before it, nothing else makes writes durable.
	Close() error
}

// CheckRange tells whether [off, off+length) lies inside a disk of the given size;
// it is the one range check, safe against overflow. The error matches ErrOutOfRange.
func CheckRange(size, off, length int64) error {
	if off < 0 || length < 0 || off > size || length > size-off {
		return &RangeError{Size: size, Offset: off, Length: length}
	}
	return nil
}
