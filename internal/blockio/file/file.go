// Package file is a raw, sparse disk image in a regular file: a blockio.Source and
// blockio.Target. It keeps no dirty bitmap.
package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"understudy/internal/blockio"
)

var (
	_ blockio.Source = (*File)(nil)
	_ blockio.Target = (*File)(nil)
)

// piece is the most that is read or written between two looks at the context: a system
// call on a file cannot be interrupted. At 100 MB/s it takes 40 ms.
const piece = 4 << 20

// zeroPiece is the same for punching holes, which is faster by far.
const zeroPiece = 1 << 30

var zeroes [256 << 10]byte

// File is an open image. Its methods are safe for concurrent use.
type File struct {
	f        *os.File
	fd       int // of f; valid while mu is held for reading and closed is false
	size     int64
	readOnly bool

	mu     sync.RWMutex // held for reading during each system call
	closed bool

	flushMu  sync.Mutex
	flushErr error // the first failure to flush, for ever: see Flush
}

// Options says how to open an image.
type Options struct {
	ReadOnly bool
}

// Open opens an existing image. A symbolic link as the last element of path, and
// anything but a regular file, is refused (ELOOP, ErrNotRegular).
func Open(path string, opts Options) (*File, error) {
	flags := unix.O_RDWR
	if opts.ReadOnly {
		flags = unix.O_RDONLY
	}
	return open(path, flags, opts.ReadOnly, -1)
}

// Create makes a new image of size bytes, all of it a hole, with mode 0600. It fails
// if path exists. The folder entry is not made durable: the caller syncs the folder.
func Create(path string, size int64) (*File, error) {
	if size < 0 {
		return nil, fmt.Errorf("file: creating %s: negative size %d", path, size)
	}
	return open(path, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, false, size)
}

// ErrNotRegular: the path names a device, pipe, socket or folder.
var ErrNotRegular = errors.New("file: not a regular file")

func open(path string, flags int, readOnly bool, size int64) (*File, error) {
	// O_NONBLOCK: opening a pipe must not wait for its other end. It means nothing to a
	// regular file.
	f, err := os.OpenFile(path, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, fmt.Errorf("file: %w", err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s: %w", path, ErrNotRegular)
	}
	if err == nil && size >= 0 {
		err = f.Truncate(size)
	} else if err == nil {
		size = st.Size()
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("file: %w", err)
	}
	return &File{f: f, fd: int(f.Fd()), size: size, readOnly: readOnly}, nil
}

// Size implements blockio.Reader.
func (f *File) Size() int64 { return f.size }

// hold keeps the descriptor open during one system call. It is not held while foreign
// code runs.
func (f *File) hold() error {
	f.mu.RLock()
	if f.closed {
		f.mu.RUnlock()
		return fmt.Errorf("file: %w", blockio.ErrClosed)
	}
	return nil
}

// each calls do for consecutive pieces of a request, between which ctx is looked at.
func (f *File) each(ctx context.Context, off, length, limit int64, do func(off, length int64) error) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if length == 0 {
			return nil
		}
		n := min(length, limit)
		if err := f.hold(); err != nil {
			return err
		}
		err := do(off, n)
		f.mu.RUnlock()
		if err != nil {
			return err
		}
		off, length = off+n, length-n
	}
}

// ReadAt implements blockio.Reader. That the file was made shorter by somebody else is
// an error that matches io.ErrUnexpectedEOF.
func (f *File) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := blockio.CheckRange(f.size, off, int64(len(p))); err != nil {
		return err
	}
	return f.each(ctx, off, int64(len(p)), piece, func(at, n int64) error {
		_, err := f.f.ReadAt(p[at-off:][:n], at)
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return wrap("read", at, n, err)
	})
}

// WriteAt implements blockio.Writer.
func (f *File) WriteAt(ctx context.Context, p []byte, off int64) error {
	if err := f.checkWrite(off, int64(len(p))); err != nil {
		return err
	}
	return f.each(ctx, off, int64(len(p)), piece, func(at, n int64) error {
		_, err := f.f.WriteAt(p[at-off:][:n], at)
		return wrap("write", at, n, err)
	})
}

// WriteParts is WriteAt of bytes that lie in pieces, one behind the other on the disk.
func (f *File) WriteParts(ctx context.Context, parts [][]byte, off int64) error {
	length := int64(0)
	for _, p := range parts {
		length += int64(len(p))
	}
	if err := f.checkWrite(off, length); err != nil {
		return err
	}
	todo := append(make([][]byte, 0, len(parts)), parts...) // what was written is cut off it
	return f.each(ctx, off, length, piece, func(at, n int64) error {
		for n > 0 {
			some, last := head(todo, n)
			wrote, err := pwritev(f.fd, some, at)
			if last != nil {
				some[len(some)-1] = last
			}
			if err != nil {
				return wrap("write", at, n, err)
			}
			todo = skip(todo, wrote)
			at, n = at+wrote, n-wrote
		}
		return nil
	})
}

// maxVector is IOV_MAX of Linux.
const maxVector = 1024

// head gives the first parts, at most n bytes. A part that had to be cut for that is cut in place; it is the last one, and
// is given back whole too.
func head(parts [][]byte, n int64) (some [][]byte, last []byte) {
	for i, p := range parts[:min(len(parts), maxVector)] {
		if int64(len(p)) >= n {
			some = parts[:i+1]
			if int64(len(p)) > n {
				last, some[i] = p, p[:n]
			}
			return some, last
		}
		n -= int64(len(p))
	}
	return parts[:min(len(parts), maxVector)], nil
}

// skip drops the first n bytes.
func skip(parts [][]byte, n int64) [][]byte {
	for len(parts) > 0 && int64(len(parts[0])) <= n {
		n -= int64(len(parts[0]))
		parts = parts[1:]
	}
	if n > 0 {
		parts[0] = parts[0][n:]
	}
	return parts
}

func pwritev(fd int, parts [][]byte, off int64) (wrote int64, err error) {
	err = retry(func() error {
		n, err := unix.Pwritev(fd, parts, off)
		wrote = int64(n)
		return err
	})
	if err == nil && wrote <= 0 {
		err = io.ErrShortWrite
	}
	return max(wrote, 0), err
}

// Begin has the kernel start to write what is dirty of a range, and does not wait for it: a Flush that comes later has less
// to wait for. It promises nothing, so it has no error.
func (f *File) Begin(off, length int64) {
	if f.hold() != nil {
		return
	}
	defer f.mu.RUnlock()
	_ = unix.SyncFileRange(f.fd, off, length, unix.SYNC_FILE_RANGE_WRITE)
}

// WriteZeroes implements blockio.Writer by punching a hole, or by writing zeroes where
// the file system has no holes.
func (f *File) WriteZeroes(ctx context.Context, off, length int64) error {
	if err := f.checkWrite(off, length); err != nil {
		return err
	}
	err := f.each(ctx, off, length, zeroPiece, func(at, n int64) error {
		return wrap("punch hole", at, n, retry(func() error {
			return unix.Fallocate(f.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, n)
		}))
	})
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	return f.writeZeroData(ctx, off, length)
}

func (f *File) writeZeroData(ctx context.Context, off, length int64) error {
	return f.each(ctx, off, length, int64(len(zeroes)), func(at, n int64) error {
		_, err := f.f.WriteAt(zeroes[:n], at)
		return wrap("write zeroes", at, n, err)
	})
}

func (f *File) checkWrite(off, length int64) error {
	if err := blockio.CheckRange(f.size, off, length); err != nil {
		return err
	}
	if f.readOnly {
		return fmt.Errorf("file: %w", blockio.ErrReadOnly)
	}
	return nil
}

// Flush implements blockio.Writer by fdatasync. After it has failed once every later
// call fails the same way: the kernel drops what it could not write and reports so only
// once, so a later success would be a lie. It cannot be interrupted; ctx is looked at
// before it starts.
func (f *File) Flush(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := f.hold(); err != nil {
		return err
	}
	defer f.mu.RUnlock()
	if f.readOnly {
		return nil
	}
	f.flushMu.Lock()
	defer f.flushMu.Unlock()
	if f.flushErr == nil {
		if err := retry(func() error { return unix.Fdatasync(f.fd) }); err != nil {
			f.flushErr = fmt.Errorf("file: flush: %w", err)
		}
	}
	return f.flushErr
}

// Map implements blockio.Mapper by SEEK_DATA and SEEK_HOLE: Data and Hole, never Zero.
// A file system that knows no holes says that all is data.
func (f *File) Map(ctx context.Context, m blockio.Map, off, length int64, visit func(blockio.Extent) error) error {
	if err := blockio.CheckRange(f.size, off, length); err != nil {
		return err
	}
	if m != blockio.Allocation {
		return fmt.Errorf("file: %v: %w", m, blockio.ErrNoMap)
	}
	merger := blockio.Merger{Visit: visit}
	for end := off + length; off < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		data, err := f.seek(off, unix.SEEK_DATA)
		if err != nil {
			return err
		}
		data = min(max(data, off), end)
		if err := merger.Add(blockio.Extent{Offset: off, Length: data - off, Kind: blockio.Hole}); err != nil {
			return err
		}
		if off = data; off == end {
			break
		}
		hole, err := f.seek(off, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if hole <= off { // a hole was punched since: look again, at least a byte further
			hole = off + 1
		}
		hole = min(hole, end)
		if err := merger.Add(blockio.Extent{Offset: off, Length: hole - off, Kind: blockio.Data}); err != nil {
			return err
		}
		off = hole
	}
	return merger.Finish()
}

// seek finds the next data or hole from off on. The file position it moves is used by
// nobody: all reads and writes carry their offset.
func (f *File) seek(off int64, whence int) (int64, error) {
	if err := f.hold(); err != nil {
		return 0, err
	}
	defer f.mu.RUnlock()
	at, err := unix.Seek(f.fd, off, whence)
	switch {
	case err == nil:
		return at, nil
	case errors.Is(err, unix.ENXIO): // nothing of the kind up to the end
		return math.MaxInt64, nil
	case errors.Is(err, unix.EINVAL) && whence == unix.SEEK_DATA: // not known here
		return off, nil
	case errors.Is(err, unix.EINVAL):
		return math.MaxInt64, nil
	}
	return 0, wrap("map", off, 0, err)
}

// Close implements blockio.Source: requests in flight finish first.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	f.closed = true
	if err := f.f.Close(); err != nil {
		return fmt.Errorf("file: %w", err)
	}
	return nil
}

// retry repeats a system call that a signal interrupted.
func retry(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func wrap(op string, off, length int64, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("file: %s of %d bytes at %d: %w", op, length, off, err)
}
