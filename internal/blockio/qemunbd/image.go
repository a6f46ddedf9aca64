package qemunbd

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// Format is a disk image format. There is no probing: a guest that writes a qcow2
// header onto its raw disk must not make us follow the names in it.
type Format string

// The formats served.
const (
	Qcow2 Format = "qcow2"
	Raw   Format = "raw"
)

// Layer is one image of a chain.
type Layer struct {
	// Path is absolute. It is never parsed: "nbd:…", "json:…", commas and equal signs
	// are parts of a file name like any other.
	Path   string
	Format Format
	// DataFile is the absolute path of the raw data file of a qcow2 image that has one.
	DataFile string
}

// Errors of a chain that is not what the image's header says.
var (
	// ErrBackingMismatch: the header names a backing file and the chain ends here, or the
	// chain goes on and the header names none. Serving it would give wrong bytes.
	ErrBackingMismatch = errors.New("qemunbd: the image's header and the given chain disagree about a backing file")
	// ErrDataFileMismatch: the same about an external data file.
	ErrDataFileMismatch = errors.New("qemunbd: the image's header and the given layer disagree about a data file")
	// ErrBadImage: not a qcow2 image, or a path that cannot be passed on.
	ErrBadImage = errors.New("qemunbd: bad image")
)

// checkChain checks the layers, top first, against what the files say of themselves.
func checkChain(chain []Layer) error {
	for i, l := range chain {
		if err := checkPath(l.Path); err != nil {
			return err
		}
		last := i == len(chain)-1
		if l.Format == Raw {
			if !last || l.DataFile != "" {
				return fmt.Errorf("%s: a raw image has neither backing nor data file: %w", l.Path, ErrBackingMismatch)
			}
			continue
		}
		if l.Format != Qcow2 {
			return fmt.Errorf("%s: format %q: %w", l.Path, l.Format, ErrBadImage)
		}
		h, err := readHeader(l.Path)
		switch {
		case err != nil:
			return err
		case h.backing == last:
			return fmt.Errorf("%s: %w", l.Path, ErrBackingMismatch)
		case h.dataFile != (l.DataFile != ""):
			return fmt.Errorf("%s: %w", l.Path, ErrDataFileMismatch)
		}
		if l.DataFile != "" {
			if err := checkPath(l.DataFile); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkPath refuses what JSON could not carry unchanged and what depends on a folder.
func checkPath(path string) error {
	switch {
	case !filepath.IsAbs(path):
		return fmt.Errorf("%q is not an absolute path: %w", path, ErrBadImage)
	case !utf8.ValidString(path):
		return fmt.Errorf("%q is not UTF-8: %w", path, ErrBadImage)
	}
	for _, b := range []byte(path) {
		if b == 0 {
			return fmt.Errorf("%q holds a NUL: %w", path, ErrBadImage)
		}
	}
	return nil
}

// header is what we want to know of a qcow2 header (QEMU's docs/interop/qcow2.txt).
type header struct {
	backing  bool // names a backing file
	dataFile bool // incompatible feature bit 2
}

func readHeader(path string) (header, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return header{}, fmt.Errorf("qemunbd: %w", err)
	}
	defer f.Close()
	var p [80]byte // version 2 headers are 72 bytes long
	n, err := f.ReadAt(p[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return header{}, fmt.Errorf("qemunbd: %w", err)
	}
	if n < 72 || string(p[:4]) != "QFI\xfb" {
		return header{}, fmt.Errorf("%s is not a qcow2 image: %w", path, ErrBadImage)
	}
	h := header{backing: binary.BigEndian.Uint64(p[8:]) != 0}
	switch version := binary.BigEndian.Uint32(p[4:]); {
	case version == 2:
	case version == 3 && n == len(p):
		h.dataFile = binary.BigEndian.Uint64(p[72:])&(1<<2) != 0
	default:
		return header{}, fmt.Errorf("%s: qcow2 version %d: %w", path, version, ErrBadImage)
	}
	return h, nil
}

// blockdev describes the chain to QEMU in full, so that it takes no name out of a
// header. As JSON after "json:", no byte of a path can be taken for syntax.
func blockdev(chain []Layer, opts *Options) (string, error) {
	var node any // a nil backing says that there is none
	for i := len(chain) - 1; i >= 0; i-- {
		l := chain[i]
		n := map[string]any{"driver": string(l.Format), "file": fileNode(l.Path)}
		if l.Format == Qcow2 {
			n["backing"] = node
		}
		if l.DataFile != "" {
			n["data-file"] = fileNode(l.DataFile)
		}
		if i == 0 && opts.ForceShare {
			n["force-share"] = true
		}
		node = n
	}
	p, err := json.Marshal(node)
	if err != nil {
		return "", fmt.Errorf("qemunbd: %w", err)
	}
	return "json:" + string(p), nil
}

func fileNode(path string) map[string]any {
	return map[string]any{"driver": "file", "filename": path}
}
