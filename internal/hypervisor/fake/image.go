package fake

import (
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"os"

	"understudy/internal/blockio"
	"understudy/internal/model"
)

const page = model.ClusterSize

// image is a disk's content and bitmaps. The Hypervisor's lock guards it.
type image struct {
	format  model.DiskFormat
	size    int64
	pages   map[int64][]byte // never changed in place, so that a frozen copy may share them
	bitmaps map[string]*bitmap
	written int64
	writes  int64
}

// bitmap records from its creation on, whatever other bitmaps there are: as QEMU's do under this libvirt.
type bitmap struct {
	pages  map[int64]bool
	saved  bool // by a clean end of QEMU
	broken bool // in use when QEMU died
}

func newImage(format model.DiskFormat, size int64) *image {
	return &image{format: format, size: size, pages: map[int64][]byte{}, bitmaps: map[string]*bitmap{}}
}

// write is a guest's write.
func (i *image) write(p []byte, off int64) error {
	if err := blockio.CheckRange(i.size, off, int64(len(p))); err != nil {
		return err
	}
	i.written += int64(len(p))
	i.writes++
	for len(p) > 0 {
		n, from := off/page, off%page
		part := min(int64(len(p)), page-from)
		fresh := make([]byte, page)
		copy(fresh, i.pages[n])
		copy(fresh[from:], p[:part])
		i.pages[n] = fresh
		for _, b := range i.bitmaps {
			if !b.broken {
				b.pages[n] = true
			}
		}
		p, off = p[part:], off+part
	}
	return nil
}

func (i *image) stopped(clean bool) {
	for name, b := range i.bitmaps {
		switch {
		case clean:
			b.saved = true
		case b.saved:
			b.broken = true
		default:
			delete(i.bitmaps, name)
		}
	}
}

// usable is the bitmap of that name if a delta can start at it.
func (i *image) usable(name string) (*bitmap, bool) {
	b, ok := i.bitmaps[name]
	return b, ok && !b.broken
}

func (b *bitmap) bytes(size int64) int64 {
	var n int64
	for p := range b.pages {
		n += min(page, size-p*page)
	}
	return n
}

// frozen is a disk at one instant, as an export shows it.
type frozen struct {
	size  int64
	pages map[int64][]byte
	dirty map[int64]bool // nil: the whole disk is exported
}

func (i *image) freeze(b *bitmap) *frozen {
	f := &frozen{size: i.size, pages: maps.Clone(i.pages)}
	if b != nil {
		f.dirty = maps.Clone(b.pages)
	}
	return f
}

func (f *frozen) read(p []byte, off int64) {
	for len(p) > 0 {
		from := off % page
		part := min(int64(len(p)), page-from)
		if src := f.pages[off/page]; src != nil {
			copy(p[:part], src[from:])
		} else {
			clear(p[:part])
		}
		p, off = p[part:], off+part
	}
}

var qcow2Magic = []byte("QFI\xfb")

// imageFile looks at a file that somebody else made: its size is all that the fake can know of it.
func imageFile(path string, format model.DiskFormat) (*image, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if format == model.FormatQCOW2 {
		head := make([]byte, 32)
		if _, err := io.ReadFull(f, head); err != nil || string(head[:4]) != string(qcow2Magic) {
			return nil, errors.New("not a qcow2 image")
		}
		return newImage(format, int64(min(binary.BigEndian.Uint64(head[24:]), uint64(model.MaxDiskSize)))), nil
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return newImage(format, info.Size()), nil
}

// placeholder makes a file that has the size of an image and nothing in it.
func placeholder(path string, format model.DiskFormat, size int64) error {
	if format == model.FormatQCOW2 {
		head := make([]byte, 104)
		copy(head, qcow2Magic)
		binary.BigEndian.PutUint32(head[4:], 3)
		binary.BigEndian.PutUint32(head[20:], 16)
		binary.BigEndian.PutUint64(head[24:], uint64(size))
		return os.WriteFile(path, head, 0o600)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	return os.Truncate(path, size)
}
