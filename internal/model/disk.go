package model

// BlockSize is the unit of comparison and of digests: 4 KiB. libvirt tracks dirty data in 64 KiB clusters, guests write
// 4 KiB; comparing at 4 KiB is what saves the link.
const BlockSize = 4096

// ClusterSize is the granularity of QEMU's dirty bitmaps (64 KiB by default).
const ClusterSize = 64 << 10

// MaxDiskSize bounds what is accepted from a domain's XML or from the wire: 64 TiB.
const MaxDiskSize = int64(64) << 40

// MaxDisks bounds the number of disks of one VM.
const MaxDisks = 64

// DiskFormat is the image format of a primary's disk.
type DiskFormat string

// Formats that can be replicated.
const (
	FormatQCOW2 DiskFormat = "qcow2"
	FormatRaw   DiskFormat = "raw" // has no persistent bitmap: every cycle is a resync by digests
)

// Disk is one replicable disk of a domain.
type Disk struct {
	Target string     `json:"target"` // libvirt target, for example vda
	Format DiskFormat `json:"format"`
	Path   string     `json:"path"` // on the primary
	Size   int64      `json:"size"` // bytes, virtual
}

// DiskMode is a rung of the healing ladder: how a disk's data of one point is found.
type DiskMode string

// The rungs, cheapest first.
const (
	ModeDelta  DiskMode = "delta"  // dirty bitmap since the last committed point
	ModeResync DiskMode = "resync" // no usable bitmap: compare digests of all allocated data, send what differs
	ModeFull   DiskMode = "full"   // nothing on the standby: send all allocated data
)

// Digest is the XXH3-128 of one block under the chain's random seed; the zero Digest stands for a block of zeroes.
type Digest [16]byte

// Run is a contiguous range of a disk in bytes; both fields are multiples of BlockSize except at the end of a disk whose
// size is not.
type Run struct {
	Offset int64 `json:"offset"`
	Length int64 `json:"length"`
}

// SnapshotDisk is one disk of an open snapshot on the primary.
type SnapshotDisk struct {
	Disk
	Mode       DiskMode `json:"mode"`
	Reason     string   `json:"reason"`      // why not delta; empty for delta
	DirtyBytes int64    `json:"dirty_bytes"` // by the bitmap (64 KiB clusters); Size when unknown
	Export     string   `json:"export"`      // NBD export name
	Bitmap     string   `json:"bitmap"`      // exported bitmap for ModeDelta; empty otherwise
}
