// Package hypervisor is the port to libvirt: what Understudy asks of a hypervisor and nothing else. The adapters are
// libvirtrpc (a real libvirtd) and fake; hvtest is the suite that both pass. Consumers declare the small part of Hypervisor
// that they use; the whole of it exists for the suite and for wiring.
//
// Facts this rests on are in references/libvirt.md (tried on libvirt 9.0 and QEMU 7.2).
package hypervisor

import (
	"context"
	"time"

	"understudy/internal/model"
)

// State is a domain's state in libvirt's words.
type State string

// States.
const (
	Running  State = "running"
	Paused   State = "paused"
	ShutOff  State = "shut off"
	Crashed  State = "crashed" // the guest crashed and its QEMU process is kept; a QEMU that died is "shut off", reason "crashed"
	OtherRun State = "other"   // any other state with a QEMU process: shutting down, suspended by the guest
)

// Active says that a QEMU process exists.
func (s State) Active() bool { return s == Running || s == Paused || s == Crashed || s == OtherRun }

// Versions of what is below us.
type Versions struct {
	Libvirt string `json:"libvirt"`
	QEMU    string `json:"qemu"`
}

// Domain is a domain as libvirt describes it now.
type Domain struct {
	VM         model.VMRef
	State      State
	Reason     string // libvirt's word for why it is in this state: "crashed", "destroyed", "I/O error" …
	Persistent bool
	Autostart  bool
	OnCrash    string // what libvirt does when the guest panics: "destroy", "restart", "preserve" …
	Disks      []Disk // every <disk> of the domain, CD-ROMs and read-only ones too, in the order of the XML
}

// Disk is one <disk> of a domain. model.Disk.Size is the virtual size, 0 when it could not be asked.
type Disk struct {
	model.Disk
	Allocated int64 // bytes used on the host
	ReadOnly  bool
	Direct    bool // QEMU goes past the host's page cache
	// Problem says why it cannot be replicated (network source, block device, unknown format, shareable …); empty when it can.
	// A CD-ROM, a floppy and a read-only disk have none: they are left out, and ReadOnly says so.
	Problem string
}

// Checkpoint is one libvirt checkpoint.
type Checkpoint struct {
	Name    string
	Parent  string
	Created time.Time
	// Disks are the targets that carry a bitmap of it.
	Disks []string
}

// CaptureDisk says how a disk takes part in a capture.
type CaptureDisk struct {
	Target string
	// Since names the checkpoint whose bitmap tells what changed: an incremental export. Empty exports the whole disk.
	Since string
	// NoBitmap leaves the disk out of the new checkpoint: raw images cannot carry one.
	NoBitmap bool
}

// CaptureSpec asks for one instant of all disks named.
type CaptureSpec struct {
	// Checkpoint is the name of the checkpoint to create at that instant on every disk without NoBitmap. Empty makes none;
	// it must be empty when all disks have NoBitmap.
	Checkpoint string
	Disks      []CaptureDisk
	// Socket is the absolute path of the unix socket that QEMU's NBD server will listen on, at most 107 bytes. Its folder
	// must exist.
	Socket string
	// ScratchDir is where old contents of clusters that are written during the capture go, one file a disk, removed with it.
	ScratchDir string
	// Freeze the guest's file systems around the instant. A guest agent that does not answer within FreezeTimeout makes the
	// capture fail with QuiesceFailed, with the guest thawed or an error that says that it is not.
	Freeze        bool
	FreezeTimeout time.Duration
}

// Export is where a disk of a capture can be read.
type Export struct {
	Target string
	Name   string // NBD export
	Bitmap string // of the incremental export; empty for a whole one
}

// Capture is an open capture.
type Capture struct {
	TakenAt time.Time // just before the call that fixed the instant: never later than the instant
	Exports []Export  // in the order of the spec
	Socket  string
	// Stall is the longest time for which the guest can have been held: freeze to thaw, or without freeze the time of the call
	// that fixed the instant (an upper bound).
	Stall  time.Duration
	Frozen bool
}

// Stats are a running domain's counters since its QEMU started.
type Stats struct {
	UUID       string
	Run        int64 // another QEMU process of the same domain has another number, until the host is rebooted
	WriteBytes int64
	WriteReqs  int64
	CPUTime    time.Duration // 0 when not asked for
}

// StatsQuery says what is asked: what a hypervisor has to look up costs it about as much as all the rest of Understudy.
type StatsQuery struct {
	Only []string // UUIDs; empty for all
	CPU  bool     // the time of the vCPUs too, which makes the question half as dear again
}

// Hypervisor is everything. Calls end soon after ctx does, although libvirt's RPC knows no contexts: the adapter drops the
// connection when it must, and the outcome of that call is then unknown (Unreachable). Failures are *model.Failure:
//
//	NotFound        no such domain, checkpoint
//	NotRunning      the domain is not active, and must be
//	CheckpointLost  a bitmap is missing, in use or inconsistent
//	JobConflict     another job holds the domain
//	QuiesceFailed   the guest agent did not freeze
//	Unsupported     this disk or this libvirt cannot do it
//	Unreachable     libvirtd does not answer, or the connection was lost in the call
type Hypervisor interface {
	Versions(ctx context.Context) (Versions, error)

	// Domains lists all persistent and transient domains.
	Domains(ctx context.Context) ([]Domain, error)
	// Domain finds one by UUID or, when there is none, by name.
	Domain(ctx context.Context, nameOrUUID string) (Domain, error)
	// XML is the inactive description with secrets, as Define takes it.
	XML(ctx context.Context, uuid string) (string, error)

	// Capture fixes one instant of the disks and serves it. When it fails nothing of it is left: no job, no checkpoint, no
	// scratch file.
	Capture(ctx context.Context, uuid string, spec CaptureSpec) (Capture, error)
	// EndCapture ends a backup job and removes its scratch files in dir; the checkpoint stays. No job is success.
	EndCapture(ctx context.Context, uuid, scratchDir string) error
	// CaptureSocket is the socket of the backup job that runs, whoever started it; empty when none does.
	CaptureSocket(ctx context.Context, uuid string) (string, error)

	// Checkpoints lists a domain's checkpoints, ours and foreign ones, parents before children.
	Checkpoints(ctx context.Context, uuid string) ([]Checkpoint, error)
	// DeleteCheckpoint removes a checkpoint, its bitmaps (what they hold is in the parent's) and its metadata, whatever of
	// them is left: after a crash of QEMU the bitmap may be in use or absent. A missing one is success.
	DeleteCheckpoint(ctx context.Context, uuid, name string) error
	// DirtyBytes tells per target how many bytes were written since the checkpoint, in whole clusters. CheckpointLost when
	// that cannot be known for a disk that has a bitmap of it.
	DirtyBytes(ctx context.Context, uuid, checkpoint string) (map[string]int64, error)

	// Stats gives the counters of running domains in one call. It waits for nobody: a domain that another call holds
	// just then is left out.
	Stats(ctx context.Context, q StatsQuery) ([]Stats, error)

	// StartMemoryRate begins to estimate how fast the guest dirties its memory, by looking at a sample of its pages twice, so
	// far apart (whole seconds, 1 to 60). It returns at once; one that is under way already is a JobConflict.
	StartMemoryRate(ctx context.Context, uuid string, over time.Duration) error
	// MemoryRate gives the newest estimate of a running domain, in bytes a second; done is false while there is none.
	MemoryRate(ctx context.Context, uuid string) (rate int64, done bool, err error)

	// Define makes or replaces the persistent definition. It returns the domain as libvirt has it.
	Define(ctx context.Context, xml string) (Domain, error)
	// Undefine removes the definition with its checkpoint metadata; firmware variables stay. A missing domain is success.
	// An active domain is refused with Conflict.
	Undefine(ctx context.Context, uuid string) error
	// Start boots a defined domain; one that runs is success.
	Start(ctx context.Context, uuid string) error
	// Destroy ends the QEMU process and returns when libvirt says that it is gone. A domain that is off or missing is success.
	Destroy(ctx context.Context, uuid string) error
	// Suspend and Resume stop and continue the vCPUs; repeating either is success.
	Suspend(ctx context.Context, uuid string) error
	Resume(ctx context.Context, uuid string) error
	// SetAutostart sets whether libvirtd starts the domain by itself.
	SetAutostart(ctx context.Context, uuid string, on bool) error
	// PingGuest asks the guest agent; nil when it answered. Unsupported when the domain has no agent channel.
	PingGuest(ctx context.Context, uuid string, timeout time.Duration) error

	// Networks are the names of libvirt's networks that are active.
	Networks(ctx context.Context) ([]string, error)

	// Events delivers what libvirtd tells about domains until ctx ends; then the channel is closed. It survives restarts of
	// libvirtd, but what happened while the connection was away is lost: reconnected (may be nil) is called after each new
	// connection, also the first, so that the receiver compares with Domains.
	Events(ctx context.Context, reconnected func()) (<-chan model.Event, error)

	// Close ends the connection.
	Close() error
}
