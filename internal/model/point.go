package model

import "time"

// PointFormat is the version of the manifest and of the store's layout (docs/RECOVERY_POINT_FORMAT.md).
const PointFormat = 1

// Consistency labels what the guest knew of the snapshot.
type Consistency string

// Labels, weakest first.
const (
	CrashConsistent      Consistency = "crash"
	FilesystemConsistent Consistency = "filesystem"
)

// PointDisk is one disk of a recovery point.
type PointDisk struct {
	Target       string     `json:"target"`
	SourceFormat DiskFormat `json:"source_format"`
	SourcePath   string     `json:"source_path"` // on the primary, when the point was taken
	Size         int64      `json:"size"`        // bytes, virtual
	Mode         DiskMode   `json:"mode"`
	Reason       string     `json:"reason,omitempty"`
	DirtyBytes   int64      `json:"dirty_bytes"`   // by the bitmap
	ReadBytes    int64      `json:"read_bytes"`    // read from the primary's export
	ChangedBytes int64      `json:"changed_bytes"` // 4 KiB blocks that differed from the parent point
	SentBytes    int64      `json:"sent_bytes"`    // on the wire, both directions
	StateDigest  string     `json:"state_digest"`  // digest of the whole disk at this point, kept incrementally
}

// Point is the manifest of a recovery point: everything needed to run the VM elsewhere. Written once, never changed.
type Point struct {
	Format int   `json:"format"`
	VM     VMRef `json:"vm"`
	PointRef
	Parent      Seq         `json:"parent"` // 0 for the first of a chain
	Primary     HostID      `json:"primary"`
	TakenAt     time.Time   `json:"taken_at"`
	VerifiedAt  time.Time   `json:"verified_at"`
	Consistency Consistency `json:"consistency"`
	Stall       float64     `json:"stall_ms"` // longest guest-visible pause that the snapshot could cause, ms
	DigestSeed  uint64      `json:"digest_seed"`
	Disks       []PointDisk `json:"disks"`
	DomainXML   string      `json:"domain_xml"` // inactive XML of the domain when the point was taken
	// Seed says that it was made of the disks of a former primary, for the next point to build on. Nothing is started from it.
	Seed bool `json:"seed,omitempty"`
}

// StagingDisk is one disk of a point that is being received.
type StagingDisk struct {
	Target string   `json:"target"`
	Size   int64    `json:"size"`
	Mode   DiskMode `json:"mode"`
	// Expect is the number of bytes of data that will probably come (0: unknown); the standby refuses early what it has no
	// room for.
	Expect int64 `json:"expect_bytes,omitempty"`
	// Reread makes the standby answer with digests of what its disk holds now, not with those that it recorded: that finds a
	// replica that was damaged since, and costs a read of it.
	Reread bool `json:"reread,omitempty"`
}

// StagingSpec opens (or resumes) the staging area of one point on the standby.
type StagingSpec struct {
	VM VMRef `json:"vm"`
	PointRef
	Parent Seq           `json:"parent"` // newest committed point that the delta builds on; 0 for none
	Disks  []StagingDisk `json:"disks"`
	// Capture identifies the frozen snapshot that is being read, for example its time: what was staged of another capture
	// under the same number is not resumed but dropped.
	Capture string `json:"capture,omitempty"`
	// DomainXML is the domain when the snapshot was taken; bulk stays on the agents, so it travels beside the data.
	DomainXML string `json:"domain_xml,omitempty"`
	// Sender is the host whose certificate opened the session; the receiver writes it. Empty without TLS, or for what was staged
	// from disks here.
	Sender HostID `json:"sender,omitempty"`
}

// DiskReceipt is the proof for one disk.
type DiskReceipt struct {
	Target string `json:"target"`
	Blocks int64  `json:"blocks"` // blocks re-read and compared
	Bytes  int64  `json:"bytes"`
	Log    string `json:"log"` // digest of the log of digests that was compared with
}

// Receipt says that a staging area was re-read and is what the source sent. There is no commit without one.
type Receipt struct {
	VM VMRef `json:"vm"`
	PointRef
	ProvedAt time.Time     `json:"proved_at"`
	Disks    []DiskReceipt `json:"disks"`
}
