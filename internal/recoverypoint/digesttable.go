package recoverypoint

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/zeebo/xxh3"
	"golang.org/x/sys/unix"

	"understudy/internal/blockio/digest"
	"understudy/internal/model"
)

// The digest table of a disk holds the digests of the newest committed point, 16 bytes a block, at tableHeaderSize +
// index*16. It is sparse: what was never written reads as zero digests, which stand for zero blocks.
//
//	header  "USDTAB01" | seed 8 | seq 8 | blocks 8 | sum 8, then zeroes up to 4096
const (
	tableMagic      = "USDTAB01"
	tableHeaderSize = 4096
)

var errTable = errors.New("digest table is missing or damaged")

type tableHeader struct {
	Seed   uint64
	Seq    model.Seq
	Blocks int64
}

func (h tableHeader) encode() []byte {
	p := append(make([]byte, 0, 64), tableMagic...)
	p = binary.LittleEndian.AppendUint64(p, h.Seed)
	p = binary.LittleEndian.AppendUint64(p, uint64(h.Seq))
	p = binary.LittleEndian.AppendUint64(p, uint64(h.Blocks))
	return binary.LittleEndian.AppendUint64(p, xxh3.Hash(p))
}

func decodeTableHeader(p []byte) (tableHeader, error) {
	if len(p) < 40 || !bytes.Equal(p[:8], []byte(tableMagic)) || binary.LittleEndian.Uint64(p[32:]) != xxh3.Hash(p[:32]) {
		return tableHeader{}, errTable
	}
	h := tableHeader{
		Seed:   binary.LittleEndian.Uint64(p[8:]),
		Seq:    model.Seq(binary.LittleEndian.Uint64(p[16:])),
		Blocks: int64(binary.LittleEndian.Uint64(p[24:])),
	}
	if h.Blocks < 0 || h.Blocks > digest.Count(model.MaxDiskSize) {
		return tableHeader{}, errTable
	}
	return h, nil
}

// table is an open digest table.
type table struct {
	f    *os.File
	head tableHeader
}

// createTable makes a fresh table of zero digests in the place of whatever path names.
func createTable(path string, h tableHeader) (*table, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	t := &table{f: f}
	if err := t.stamp(h); err != nil {
		_ = f.Close()
		return nil, err
	}
	return t, nil
}

// openTable opens a table, for patching or only for reading.
func openTable(path string, write bool) (*table, error) {
	flags := os.O_RDONLY
	if write {
		flags = os.O_RDWR
	}
	f, err := os.OpenFile(path, flags|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	var p [40]byte
	_, err = f.ReadAt(p[:], 0)
	if err == nil {
		t := &table{f: f}
		if t.head, err = decodeTableHeader(p[:]); err == nil {
			return t, nil
		}
	} else if errors.Is(err, io.EOF) {
		err = errTable
	}
	_ = f.Close()
	return nil, err
}

// stamp writes the header. It is not synced here.
func (t *table) stamp(h tableHeader) error {
	if _, err := t.f.WriteAt(h.encode(), 0); err != nil {
		return err
	}
	t.head = h
	return t.f.Truncate(tableHeaderSize + h.Blocks*int64(digest.Size))
}

func (t *table) close() error { return t.f.Close() }

func (t *table) sync() error { return t.f.Sync() }

// read fills dst with the digests from block index on; blocks beyond the table's end have the zero digest. buf is
// scratch of the caller.
func (t *table) read(index int64, dst []model.Digest, buf *[]byte) error {
	clear(dst)
	have := min(int64(len(dst)), t.head.Blocks-index)
	if have <= 0 {
		return nil
	}
	n := int(have) * digest.Size
	if cap(*buf) < n {
		*buf = make([]byte, n)
	}
	p := (*buf)[:n]
	if _, err := t.f.ReadAt(p, tableHeaderSize+index*int64(digest.Size)); err != nil {
		return fmt.Errorf("%w: %w", errTable, err)
	}
	for i := range int(have) {
		dst[i] = model.Digest(p[i*digest.Size:])
	}
	return nil
}

// patch sets the digests of a run; a run of zeroes gives its space back where it can.
func (t *table) patch(w model.WrittenRun, buf *[]byte) error {
	off := tableHeaderSize + w.Offset/model.BlockSize*int64(digest.Size)
	if w.Zero() {
		return t.clear(off, digest.Count(w.Length)*int64(digest.Size))
	}
	p := (*buf)[:0]
	for i := range w.Digests {
		p = append(p, w.Digests[i][:]...)
	}
	*buf = p
	_, err := t.f.WriteAt(p, off)
	return err
}

var zeroPage [64 << 10]byte

// clear zeroes bytes of the table. Punching gives whole pages back, zeroes the parts of pages at both ends, and needs no
// space of its own.
func (t *table) clear(off, length int64) error {
	length = min(length, tableHeaderSize+t.head.Blocks*int64(digest.Size)-off)
	if length <= 0 {
		return nil
	}
	err := unix.Fallocate(int(t.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return t.zero(off, length)
	}
	return err
}

func (t *table) zero(off, length int64) error {
	for length > 0 {
		n := min(length, int64(len(zeroPage)))
		if _, err := t.f.WriteAt(zeroPage[:n], off); err != nil {
			return err
		}
		off, length = off+n, length-n
	}
	return nil
}

// reserve takes the space that patching a run will need, so that the patch after a commit cannot fail for want of it.
// It changes nothing that can be read.
func (t *table) reserve(off, length int64) error {
	err := unix.Fallocate(int(t.f.Fd()), unix.FALLOC_FL_KEEP_SIZE, off, length)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return nil
	}
	return err
}

// isOf tells whether the table holds the digests of a point.
func (t *table) isOf(seed uint64, seq model.Seq) error {
	if t.head.Seed != seed || t.head.Seq != seq {
		return fmt.Errorf("%w: it is of point %d", errTable, t.head.Seq)
	}
	return nil
}
