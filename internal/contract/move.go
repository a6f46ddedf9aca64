package contract

import (
	"time"

	"understudy/internal/model"
)

// Planned makes a takeover a switchover: the VM is paused, a last point is made of it, and the old copy gives up while it is
// still paused. Whatever fails before that, the VM goes on where it was.
type Planned struct {
	Point  model.PointRef `json:"point"`  // of the last point; its number is reserved
	Parent model.PointRef `json:"parent"` // newest committed point
	// Link, compression and retention as in any cycle.
	LinkAddress string        `json:"link_address"`
	Compression string        `json:"compression"`
	Tier        model.Tier    `json:"tier,omitempty"`
	RPO         time.Duration `json:"rpo_ns"`
	KeepLast    int           `json:"keep_last"`
	Hourly      int           `json:"hourly,omitempty"`
	Daily       int           `json:"daily,omitempty"`
	// MaxPause is after how long the old host's agent lets the VM go on by itself: it cannot give it up any more then.
	MaxPause time.Duration `json:"max_pause_ns"`
}

// PauseGuestIn pauses a VM for a switchover, for a bounded time.
type PauseGuestIn struct {
	Fence
	Attempt  string        `json:"attempt"`
	MaxPause time.Duration `json:"max_pause_ns"`
}

// PauseGuestOut is the answer.
type PauseGuestOut struct {
	PausedAt time.Time `json:"paused_at"`
}

// UnpauseGuestIn lets a VM go on that was paused for a switchover; one that runs, or was paused by somebody else, is left alone.
type UnpauseGuestIn struct {
	Fence
	Attempt string `json:"attempt"`
}

// SeedIn makes a base for the first point on a returning host from the disks that the VM left there.
type SeedIn struct {
	Fence
	Point model.PointRef `json:"point"`
	Disks []model.Disk   `json:"disks"` // of the VM now: targets and sizes
}

// SeedOut is the answer. Nothing is wrong when nothing was seeded: the first point is a full copy then.
type SeedOut struct {
	Seeded  bool           `json:"seeded"`
	Point   model.PointRef `json:"point"`             // what the next one builds on
	Skipped string         `json:"skipped,omitempty"` // why not
	Bytes   int64          `json:"bytes"`             // of data that need not be sent
	Took    time.Duration  `json:"took_ns"`
	// Rescue are the images that were left as they are.
	Rescue []string `json:"rescue,omitempty"`
}

// Rescue is what a VM's former host keeps of it, never written again.
type Rescue struct {
	Host  model.HostID `json:"host"`
	Disks []string     `json:"disks"` // paths
	Since time.Time    `json:"since"`
	// Unreplicated is how many bytes it wrote that were in no point when the VM moved; -1 while that is not known.
	Unreplicated int64 `json:"unreplicated_bytes"`
}

// SwitchoverRequestIn asks for a switchover.
type SwitchoverRequestIn struct {
	By     string `json:"by"`
	Reason string `json:"reason"`
	// MaxPause bounds the VM's pause when something hangs; 0 is two minutes.
	MaxPause time.Duration `json:"max_pause_ns,omitempty"`
	// Failback refuses unless this brings the VM back to the host where it was protected first.
	Failback bool `json:"failback,omitempty"`
	// KeepRescue says that a person knows of writes that only the rescue copy has.
	KeepRescue bool `json:"keep_rescue,omitempty"`
}

// TestFailoverIn boots a point in isolation.
type TestFailoverIn struct {
	VM         model.VMRef      `json:"vm"`
	Host       model.HostID     `json:"host"` // the standby
	Generation model.Generation `json:"generation"`
	Number     int              `json:"number"`
	Seq        model.Seq        `json:"seq"` // 0: newest verified
	Probes     []model.Probe    `json:"probes,omitempty"`
	By         string           `json:"by"`
	Scheduled  bool             `json:"scheduled,omitempty"`
	At         time.Time        `json:"at"` // asked for
	// Parent gets test-finished; empty for none.
	Parent string `json:"parent,omitempty"`
}

// TestResult is what a test failover showed.
type TestResult struct {
	WorkflowID string         `json:"workflow_id"`
	Number     int            `json:"number"`
	Host       model.HostID   `json:"host"`
	Point      model.PointRef `json:"point"`
	By         string         `json:"by"`
	Scheduled  bool           `json:"scheduled,omitempty"`
	StartedAt  time.Time      `json:"started_at"`
	EndedAt    time.Time      `json:"ended_at"`
	Passed     bool           `json:"passed"`
	// RTO is the time from choosing the point to a guest that answers, or that runs where nothing can be asked.
	RTO       time.Duration `json:"rto_ns"`
	Answered  string        `json:"answered,omitempty"` // what answered
	Detail    string        `json:"detail,omitempty"`
	Error     string        `json:"error,omitempty"`
	ErrorType string        `json:"error_type,omitempty"`
	Postponed bool          `json:"postponed,omitempty"` // the host had no time for it
	CleanedUp bool          `json:"cleaned_up"`
}

// TestBootIn starts, watches or removes the copy of a test failover.
type TestBootIn struct {
	Fence
	Point  model.PointRef `json:"point"`
	Number int            `json:"number"`
	Probes []model.Probe  `json:"probes,omitempty"`
	For    time.Duration  `json:"for_ns,omitempty"`
	// Spare postpones it while the host is busy.
	Spare bool `json:"spare,omitempty"`
}

// TestBootOut is the answer.
type TestBootOut struct {
	Name     string    `json:"name"` // of the copy
	At       time.Time `json:"at"`   // it runs, or answers
	Answered string    `json:"answered,omitempty"`
	Detail   string    `json:"detail,omitempty"`
}

// TestRequestIn asks for a test failover.
type TestRequestIn struct {
	By  string    `json:"by"`
	Seq model.Seq `json:"seq"`
}

// TestRequestOut is the answer.
type TestRequestOut struct {
	WorkflowID string `json:"workflow_id"`
	Number     int    `json:"number"`
}

// AlertTestFailed is raised by a test failover that did not pass, or took longer than the policy's RTO.
const AlertTestFailed = "TestFailed"

// TestFailoverName is the workflow of a test failover.
const TestFailoverName = "TestFailoverVM"

// TestFailoverID is the id of a VM's test failovers; one runs at a time.
func TestFailoverID(vmUUID string) string { return "testfailover/" + vmUUID }

// Activities.
var (
	PauseGuest   = Activity[PauseGuestIn, PauseGuestOut]{"pause-guest", hostOptions(15, 6, 1)}
	UnpauseGuest = Activity[UnpauseGuestIn, None]{"unpause-guest", hostOptions(20, 6, 3)}
	TestBoot     = Activity[TestBootIn, TestBootOut]{"test-boot", hostOptions(120, 6, 1)}
	TestProbe    = Activity[TestBootIn, TestBootOut]{"test-probe", hostOptions(900, 6, 2)}
	TestClean    = Activity[TestBootIn, None]{"test-clean", hostOptions(60, 6, 10)} // undo of test-boot
	Seed         = Activity[SeedIn, SeedOut]{"seed", bulkOptions(15)}               // on the bulk queue
)

// Messages.
var (
	UpdSwitchover   = Update[SwitchoverRequestIn, FailoverRequestOut]{"request-switchover"}
	UpdTestFailover = Update[TestRequestIn, TestRequestOut]{"request-test-failover"}
	SigTestFinished = Signal[TestResult]{"test-finished"}
)

// Unreplicated is the sum over the disks; -1 when nobody counted.
func (o ReplicateOut) Unreplicated() int64 {
	if !o.Compared {
		return -1
	}
	var n int64
	for _, d := range o.Disks {
		n += d.UnreplicatedBytes
	}
	return n
}
