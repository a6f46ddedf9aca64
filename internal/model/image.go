package model

import "time"

// ImageLayer is one file of a disk's chain on the standby.
type ImageLayer struct {
	Path   string     `json:"path"` // absolute
	Format DiskFormat `json:"format"`
}

// Image is a disk as it is found on the standby: its own layer first, then what lies below it.
type Image struct {
	Target string       `json:"target"`
	Size   int64        `json:"size"` // bytes, virtual
	Layers []ImageLayer `json:"layers"`
	// ParentSize is the virtual size of the parent point's disk, bytes; 0 when the image stands alone. What lies beyond it
	// was grown and reads as zeroes unless written.
	ParentSize int64 `json:"parent_size"`
}

// WrittenRun is what one entry of a staging area's digest log says: a run that was sent, with one digest a block, or a
// run of zeroes (no digests).
type WrittenRun struct {
	Run
	Digests []Digest
}

// Zero says that the whole run reads as zeroes.
func (w WrittenRun) Zero() bool { return len(w.Digests) == 0 }

// Hold says that somebody uses a point: retention touches nothing of the VM's chain while it exists.
type Hold struct {
	Name  string    `json:"name"` // for example g2 or test-7
	Point PointRef  `json:"point"`
	Why   string    `json:"why"` // for people
	Since time.Time `json:"since"`
}
