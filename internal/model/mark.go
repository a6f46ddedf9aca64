package model

// MarkKind is the class of something that Understudy leaves outside its own memory.
type MarkKind string

// Kinds of marks.
const (
	MarkCheckpoint MarkKind = "checkpoint"  // libvirt checkpoint, with its bitmaps
	MarkJob        MarkKind = "backup-job"  // libvirt backup job
	MarkSocket     MarkKind = "socket"      // of a backup job or a qemu-nbd
	MarkScratch    MarkKind = "scratch"     // old contents of clusters during a capture
	MarkRecord     MarkKind = "record"      // file about a capture, a restore, a surrender or a pause
	MarkStaging    MarkKind = "staging"     // a point that is being received
	MarkReplica    MarkKind = "replica"     // a VM's points
	MarkOverlay    MarkKind = "overlay"     // disks that a VM or a test runs from
	MarkNBD        MarkKind = "qemu-nbd"    // process
	MarkGuard      MarkKind = "guard"       // the guard's record of a VM
	MarkFloor      MarkKind = "floor"       // the least generation that is admitted
	MarkWatch      MarkKind = "watch"       // entry of a VM that is served
	MarkRescue     MarkKind = "rescue"      // what a demoted primary keeps of a VM
	MarkTest       MarkKind = "test-domain" // copy of a VM that a test failover boots
)

// Mark is one of them on a host.
type Mark struct {
	Kind       MarkKind   `json:"kind"`
	VM         VMRef      `json:"vm"` // the name may be missing
	Generation Generation `json:"generation,omitempty"`
	Seq        Seq        `json:"seq,omitempty"`
	Name       string     `json:"name"` // path, checkpoint, domain or process
	// Foreign says that it lies where ours do, and is not ours.
	Foreign bool `json:"foreign,omitempty"`
	// Used says that a domain of this host, running or not, has its disks there (of overlays).
	Used bool `json:"used,omitempty"`
	// Orphan says that its own process is gone (of a socket or a qemu-nbd).
	Orphan bool `json:"orphan,omitempty"`
}
