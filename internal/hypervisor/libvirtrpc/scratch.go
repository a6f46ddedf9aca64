package libvirtrpc

import (
	"context"
	"encoding/binary"
	"errors"
	"os"

	libvirt "github.com/digitalocean/go-libvirt"

	"understudy/internal/model"
)

// scratch is where old contents of one disk's clusters go during a capture.
type scratch struct{ file, target string }

// makeScratch makes the scratch files of a capture, as QEMU would. Not by QEMU itself: it opens what it made in the midst of
// other work, and QEMU 7.2 dies when anybody (our sampler, virsh domstats, an exporter) asks it about its block nodes just then.
func (c *Client) makeScratch(ctx context.Context, what, uuid string, files []scratch) error {
	sizes, err := call(ctx, c, what, func(l *libvirt.Libvirt) ([]int64, error) {
		dom, err := byUUID(l, uuid)
		if err != nil {
			return nil, err
		}
		var sizes []int64
		for _, s := range files {
			_, capacity, _, err := l.DomainGetBlockInfo(dom, s.target, 0)
			if err != nil {
				return nil, err
			}
			sizes = append(sizes, clip(capacity))
		}
		return sizes, nil
	})
	if err != nil {
		return err
	}
	for i, s := range files {
		b, err := emptyQCOW2(sizes[i])
		if err == nil {
			err = writeNew(s.file, b)
		}
		if err != nil {
			c.removeScratch(files)
			return model.Fail(model.Internal, err, "%s: the scratch file of disk %s cannot be made", what, s.target)
		}
	}
	return nil
}

func writeNew(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}

func (c *Client) removeScratch(files []scratch) {
	for _, s := range files {
		if err := os.Remove(s.file); err != nil && !errors.Is(err, os.ErrNotExist) {
			c.log.Warn("scratch file cannot be removed", "file", s.file, "error", err)
		}
	}
}

// emptyQCOW2 is an image without data: header, refcount table, one refcount block and the first level of the mapping.
// QEMU's own description is docs/interop/qcow2.txt.
func emptyQCOW2(size int64) ([]byte, error) {
	const (
		clusterBits = 16
		cluster     = 1 << clusterBits
		perL2       = cluster / 8 * cluster // bytes of the disk that one entry of the first level maps
		headerSize  = 104
	)
	if size <= 0 || size > model.MaxDiskSize {
		return nil, model.Fail(model.Unsupported, nil, "a disk of %d bytes", size)
	}
	size = (size + 511) &^ 511
	l1 := (size + perL2 - 1) / perL2
	l1Clusters := max((l1*8+cluster-1)/cluster, 1)
	clusters := 3 + l1Clusters
	if clusters > cluster/2 { // of one refcount block
		return nil, model.Fail(model.Unsupported, nil, "a disk of %d bytes", size)
	}
	b := make([]byte, clusters*cluster)
	put32 := func(at int, v uint32) { binary.BigEndian.PutUint32(b[at:], v) }
	put64 := func(at int, v uint64) { binary.BigEndian.PutUint64(b[at:], v) }
	copy(b, "QFI\xfb")
	put32(4, 3)
	put32(20, clusterBits)
	put64(24, uint64(size))
	put32(36, uint32(l1))
	put64(40, 3*cluster) // the first level
	put64(48, cluster)   // the refcount table
	put32(56, 1)         // of one cluster
	put32(96, 4)         // refcounts of 16 bits
	put32(100, headerSize)
	put64(cluster, 2*cluster) // the refcount block
	for i := range clusters {
		binary.BigEndian.PutUint16(b[2*cluster+2*i:], 1)
	}
	return b, nil
}
