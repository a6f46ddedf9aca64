package contract

import (
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"understudy/internal/model"
)

// Fence is on every host activity that acts for a VM: an agent refuses a generation below the highest it has seen.
type Fence struct {
	VM         model.VMRef      `json:"vm"`
	Generation model.Generation `json:"generation"`
}

// --- stage 1: snapshot -------------------------------------------------------------------------------------------------

// SnapshotIn asks the primary for a point.
type SnapshotIn struct {
	Fence
	Seq         model.Seq      `json:"seq"`
	Parent      model.PointRef `json:"parent"` // newest committed point; zero for the first
	Freeze      bool           `json:"freeze"`
	ForceResync string         `json:"force_resync,omitempty"` // reason not to trust bitmaps
	RPO         time.Duration  `json:"rpo_ns"`                 // sets the sampling period of the watcher
}

// SnapshotOut describes the open snapshot. Its bulk stays on the agent.
type SnapshotOut struct {
	Point       model.PointRef       `json:"point"`
	TakenAt     time.Time            `json:"taken_at"`
	Consistency model.Consistency    `json:"consistency"`
	Disks       []model.SnapshotDisk `json:"disks"`
	DirtyBytes  int64                `json:"dirty_bytes"`
	StallMS     float64              `json:"stall_ms"`
	Origin      *time.Time           `json:"origin,omitempty"` // oldest write in this capture
	// WrittenBytes went into this capture by the write counters; 0: unknown, or nothing.
	WrittenBytes int64 `json:"written_bytes,omitempty"`
}

// PointIn names a point on a host.
type PointIn struct {
	Fence
	Point model.PointRef `json:"point"`
}

// --- stage 2: replicate ------------------------------------------------------------------------------------------------

// ReplicateIn moves the bytes of an open snapshot to the standby.
type ReplicateIn struct {
	Fence
	Point        model.PointRef `json:"point"`
	Parent       model.PointRef `json:"parent"`
	Standby      model.HostID   `json:"standby"`
	LinkAddress  string         `json:"link_address"`
	Compression  string         `json:"compression"`
	MaxBandwidth int64          `json:"max_bandwidth"` // bytes/s; 0 unbounded
	// What the host's link budget is shared by; without them it is a silver VM with the RPO that was told before.
	Tier model.Tier    `json:"tier,omitempty"`
	RPO  time.Duration `json:"rpo_ns,omitempty"`
	// Reread makes the standby compare with what its disks hold, not with the digests that it recorded.
	Reread bool `json:"reread,omitempty"`
	// Demand is what the VM was admitted with: bytes on the wire of a capture each RPO/2; 0 when that is not known.
	Demand int64 `json:"demand,omitempty"`
	// From is the point that the VM runs from here, in the first resync with the host that it left: what differs there and was
	// not written here since is counted.
	From model.PointRef `json:"from,omitzero"`
}

// ReplicateProgress is the heartbeat of replicate. The truth for resuming is what the standby acknowledged; this is for
// people and for progress bars.
type ReplicateProgress struct {
	Disk       string  `json:"disk"`
	DoneBytes  int64   `json:"done_bytes"`  // of the ranges to look at
	TotalBytes int64   `json:"total_bytes"` // to look at
	SentBytes  int64   `json:"sent_bytes"`
	Rate       float64 `json:"rate"` // bytes/s of DoneBytes
}

// DiskStats is what replicate says of one disk.
type DiskStats struct {
	Target       string `json:"target"`
	ReadBytes    int64  `json:"read_bytes"`
	ChangedBytes int64  `json:"changed_bytes"`
	SentBytes    int64  `json:"sent_bytes"`
	// UnreplicatedBytes were written on the standby before the VM left it, and were in no point.
	UnreplicatedBytes int64 `json:"unreplicated_bytes,omitempty"`
}

// ReplicateOut is its result.
type ReplicateOut struct {
	Disks     []DiskStats   `json:"disks"`
	SentBytes int64         `json:"sent_bytes"` // on the wire, both directions
	Took      time.Duration `json:"took_ns"`
	Resumed   bool          `json:"resumed"` // continued from an earlier attempt's acknowledged bytes
	// Of a host with a link budget: the rate that can be counted on (bytes/s: the mean granted, or the reservation), whether the
	// transfer was kept waiting by its grant, why, and the use of the budget over the last minute (1 is all of it).
	Granted   int64   `json:"granted,omitempty"`
	Limited   bool    `json:"limited,omitempty"`
	LimitedBy string  `json:"limited_by,omitempty"`
	LinkUse   float64 `json:"link_use,omitempty"`
	// CPU is what the agent used for it.
	CPU time.Duration `json:"cpu_ns,omitempty"`
	// Compared says that UnreplicatedBytes of the disks were counted.
	Compared bool `json:"compared,omitempty"`
}

// --- stages 3 and 4: verify and recoverypoint ----------------------------------------------------------------------------

// VerifyIn proves the staging area on the standby and commits it as a point.
type VerifyIn struct {
	Fence
	Point       model.PointRef       `json:"point"`
	Parent      model.PointRef       `json:"parent"`
	Primary     model.HostID         `json:"primary"`
	TakenAt     time.Time            `json:"taken_at"`
	Consistency model.Consistency    `json:"consistency"`
	StallMS     float64              `json:"stall_ms"`
	Disks       []model.SnapshotDisk `json:"disks"`
	Stats       []DiskStats          `json:"stats"`
	KeepLast    int                  `json:"keep_last"`
	Hourly      int                  `json:"hourly,omitempty"`
	Daily       int                  `json:"daily,omitempty"`
	// PostponeMerges leaves old points for a while, because there is no time for them now.
	PostponeMerges bool `json:"postpone_merges,omitempty"`
	// KeepRescue keeps the overlays that the VM ran from on this host: they hold writes that nobody else has.
	KeepRescue bool `json:"keep_rescue,omitempty"`
}

// VerifyOut is the committed point.
type VerifyOut struct {
	Point      model.PointRef `json:"point"`
	VerifiedAt time.Time      `json:"verified_at"`
	Points     int            `json:"points"` // in the store after it
	StoreFree  int64          `json:"store_free"`
	ProveTook  time.Duration  `json:"prove_took_ns,omitempty"` // of it, re-reading and comparing: what grows with the bytes
	AtRest     string         `json:"at_rest,omitempty"`       // of the standby's facts
}

// PruneIn asks the standby to drop points beyond the policy.
type PruneIn struct {
	Fence
	KeepLast int `json:"keep_last"`
	Hourly   int `json:"hourly,omitempty"`
	Daily    int `json:"daily,omitempty"`
}

// PruneOut says what it did.
type PruneOut struct {
	Dropped   []model.Seq `json:"dropped"`
	Postponed string      `json:"postponed,omitempty"` // why not
}

// PointsIn asks a store for its points.
type PointsIn struct {
	VM model.VMRef `json:"vm"`
}

// PointView is a point as listed (without the domain XML).
type PointView struct {
	model.PointRef
	Parent      model.Seq         `json:"parent"`
	Primary     model.HostID      `json:"primary"`
	TakenAt     time.Time         `json:"taken_at"`
	VerifiedAt  time.Time         `json:"verified_at"`
	Consistency model.Consistency `json:"consistency"`
	StallMS     float64           `json:"stall_ms"`
	Disks       []model.PointDisk `json:"disks"`
	BytesOnDisk int64             `json:"bytes_on_disk"`
}

// PointsOut lists them, oldest first.
type PointsOut struct {
	Points []PointView `json:"points"`
}

// --- observe and preflight ------------------------------------------------------------------------------------------------

// ObserveIn asks the primary for utilization.
type ObserveIn struct {
	Fence
	Committed model.PointRef `json:"committed"` // the checkpoint dirty bytes are counted from
	RPO       time.Duration  `json:"rpo_ns"`
}

// PreflightIn checks one side before a protection is accepted.
type PreflightIn struct {
	VM     model.VMRef  `json:"vm"`
	Policy model.Policy `json:"policy"`
	// Disks and NeedBytes are for the standby's check.
	Disks     []model.Disk `json:"disks,omitempty"`
	NeedBytes int64        `json:"need_bytes,omitempty"`
	// Admission asks the primary whether its link carries the VM; nil for one that is protected already.
	Admission *AdmissionIn `json:"admission,omitempty"`
}

// PreflightOut is what it found; refusals are errors.
type PreflightOut struct {
	Facts     model.HostFacts `json:"facts"`
	VM        model.VMRef     `json:"vm"`
	Disks     []model.Disk    `json:"disks"`
	NeedBytes int64           `json:"need_bytes"` // allocated bytes of the disks
	Running   bool            `json:"running"`
	Warnings  []string        `json:"warnings"`
	Admission *Admission      `json:"admission,omitempty"` // nil where the link has no budget
}

// RetireIn removes our marks of a VM from a host.
type RetireIn struct {
	VM           model.VMRef `json:"vm"`
	PurgeReplica bool        `json:"purge_replica"`
}

// RetireOut says what could not be removed.
type RetireOut struct {
	Leftovers []string `json:"leftovers"`
}

// WatchIn runs the liveness heartbeat of a host.
type WatchIn struct {
	Host model.HostID  `json:"host"`
	For  time.Duration `json:"for_ns"` // then it returns and is scheduled again
}

// WatchOut ends one round of watching.
type WatchOut struct {
	Facts model.HostFacts `json:"facts"`
}

// --- stage 5: restore, and fencing ------------------------------------------------------------------------------------------

// ClaimIn opens (or renews, for the same attempt) a claim in the control plane's record. It is the control plane's seal.
type ClaimIn struct {
	Fence
	Target  model.HostID `json:"target"`
	Attempt string       `json:"attempt"`
	// Expect is the generation that must be the permitted one; the compare of compare-and-set.
	Expect model.Generation `json:"expect"`
}

// PermitIn lets a generation run on a host; it needs evidence unless the host is the last permitted one.
type PermitIn struct {
	Fence
	Host     model.HostID    `json:"host"`
	Attempt  string          `json:"attempt"`
	Evidence *model.Evidence `json:"evidence,omitempty"`
	// Mode the generation begins in, and the terms that the host reported when it was sealed. Empty is sole.
	Mode  model.LeaseMode  `json:"mode,omitempty"`
	Terms model.LeaseTerms `json:"terms"`
}

// RecordOut is the record after the change.
type RecordOut struct {
	Record model.Record `json:"record"`
	// Grantor is the control plane's own; nil when it grants nothing (no --lease-listen).
	Grantor *model.Grantor `json:"grantor,omitempty"`
}

// SealIn raises a host's floor durably: it then refuses every lower generation.
type SealIn struct {
	Fence
	Attempt string `json:"attempt"`
	// FloorOnly makes no candidate of the host: it grants on. Protection begins with it.
	FloorOnly bool `json:"floor_only,omitempty"`
}

// SealOut says what the host held before.
type SealOut struct {
	Floor   model.Generation `json:"floor"`
	Running bool             `json:"running"` // a copy of the VM runs here
	// Terms by which this host would hold a lease; guard level 0 when it has no guard.
	Terms model.LeaseTerms `json:"terms"`
}

// SurrenderIn asks the old holder to raise its floor, stop its copy and prove it gone.
type SurrenderIn struct {
	Fence
	Attempt string `json:"attempt"`
	// Demote makes the host a standby for good: the definition goes too and is kept aside with the disks.
	Demote bool `json:"demote,omitempty"`
	// Paused wants the copy to be paused for this attempt, without a moment in which it ran: else it is not stopped.
	Paused bool `json:"paused,omitempty"`
}

// TakeUpIn lets the last holder of a VM go on under the generation that a rolled-back takeover ended with.
type TakeUpIn struct {
	Fence
	// Mode comes from the record, never from the holder's own file [C23]. Empty is sole.
	Mode     model.LeaseMode `json:"mode,omitempty"`
	Grantors []model.Grantor `json:"grantors,omitempty"`
	Action   model.Isolation `json:"action,omitempty"`
}

// TakeUpOut says what it took.
type TakeUpOut struct {
	Started bool `json:"started"` // it had been stopped for the takeover
}

// EvidenceOut is evidence that the old VM is off.
type EvidenceOut struct {
	Evidence model.Evidence `json:"evidence"`
}

// FenceIn asks for the power-off of a host.
type FenceIn struct {
	Fence
	Host    model.HostID `json:"host"`
	Attempt string       `json:"attempt"`
}

// FenceCheckIn asks whether the fence devices of a host can be used; nothing is switched.
type FenceCheckIn struct {
	Host model.HostID `json:"host"`
}

// FenceCheckOut is the answer, a line a device.
type FenceCheckOut struct {
	Checks []model.Check `json:"checks"`
}

// WitnessIn asks one agent whether it can reach another.
type WitnessIn struct {
	Host        model.HostID `json:"host"`
	LinkAddress string       `json:"link_address"`
}

// WitnessOut is its answer.
type WitnessOut struct {
	Alive  bool   `json:"alive"`
	Detail string `json:"detail"`
	// Took is how long the host needed to answer.
	Took time.Duration `json:"took_ns,omitempty"`
}

// MaterializeIn makes bootable disks on top of a point.
type MaterializeIn struct {
	Fence
	Point model.PointRef `json:"point"`
}

// MaterializeOut names them.
type MaterializeOut struct {
	Point model.PointRef `json:"point"`
	Disks []model.Disk   `json:"disks"`
}

// StartIn defines and starts the materialized VM, after the permit: the start is the first grant of its generation.
type StartIn struct {
	Fence
	Point    model.PointRef    `json:"point"`
	Mode     model.LeaseMode   `json:"mode,omitempty"`
	Grantors []model.Grantor   `json:"grantors,omitempty"`
	Action   model.Isolation   `json:"action,omitempty"`
	Networks map[string]string `json:"networks,omitempty"`
}

// StartOut says that it runs.
type StartOut struct {
	StartedAt time.Time `json:"started_at"`
}

// ConfirmIn watches a started VM for a while.
type ConfirmIn struct {
	Fence
	For time.Duration `json:"for_ns"` // it must stay running this long
}

// ConfirmOut is what was seen.
type ConfirmOut struct {
	Running    bool   `json:"running"`
	GuestAgent bool   `json:"guest_agent"` // the guest agent answered
	Detail     string `json:"detail"`
}

// options of host activities: every one has a heartbeat or a short start-to-close limit, because a task handed to the
// poll of a dead host only shows by that; attempts are bounded, because a queue nobody polls is never heard of.
func hostOptions(startToClose, heartbeat float64, attempts int32) workflow.ActivityOptions {
	return workflow.ActivityOptions{
		ScheduleToStartTimeout: seconds(10),
		StartToCloseTimeout:    seconds(startToClose),
		HeartbeatTimeout:       seconds(heartbeat),
		RetryPolicy: &temporal.RetryPolicy{
			InitialInterval: seconds(1), BackoffCoefficient: 2, MaximumInterval: seconds(10), MaximumAttempts: attempts,
		},
	}
}

func bulkOptions(scheduleToStart float64) workflow.ActivityOptions {
	o := hostOptions(12*3600, 6, 5)
	o.ScheduleToStartTimeout = seconds(scheduleToStart)
	o.WaitForCancellation = true
	return o
}

func captureAndSendOptions() workflow.ActivityOptions {
	o := bulkOptions(15)
	o.RetryPolicy.MaximumAttempts = 3
	return o
}

func controlOptions(startToClose float64, attempts int32) workflow.ActivityOptions {
	o := hostOptions(startToClose, 0, attempts)
	o.ScheduleToStartTimeout = seconds(60)
	return o
}

// Activities on a host's short queue (HostQueue). Long ones heartbeat.
var (
	Inspect     = Activity[InspectIn, InspectOut]{"inspect", hostOptions(20, 0, 2)}
	Preflight   = Activity[PreflightIn, PreflightOut]{"preflight", hostOptions(45, 6, 2)}
	Snapshot    = Activity[SnapshotIn, SnapshotOut]{"snapshot", hostOptions(120, 6, 2)}
	Abandon     = Activity[PointIn, SettleOut]{"abandon", hostOptions(60, 6, 2)}
	Settle      = Activity[SettleIn, SettleOut]{"settle", hostOptions(60, 6, 3)}
	Observe     = Activity[ObserveIn, model.Observation]{"observe", hostOptions(10, 0, 2)}
	Points      = Activity[PointsIn, PointsOut]{"points", hostOptions(20, 0, 2)}
	Retire      = Activity[RetireIn, RetireOut]{"retire", hostOptions(120, 6, 3)}
	Discard     = Activity[PointIn, None]{"discard", hostOptions(60, 6, 3)}
	Seal        = Activity[SealIn, SealOut]{"seal", hostOptions(15, 0, 3)}
	Surrender   = Activity[SurrenderIn, EvidenceOut]{"surrender", surrenderOptions()}
	TakeUp      = Activity[TakeUpIn, TakeUpOut]{"take-up", hostOptions(60, 6, 3)}
	Witness     = Activity[WitnessIn, WitnessOut]{"witness", hostOptions(6, 0, 1)}
	Materialize = Activity[MaterializeIn, MaterializeOut]{"materialize", hostOptions(60, 6, 3)}
	Start       = Activity[StartIn, StartOut]{"start", hostOptions(120, 6, 3)}
	Confirm     = Activity[ConfirmIn, ConfirmOut]{"confirm", hostOptions(120, 6, 2)}
	Dismantle   = Activity[StartIn, None]{"dismantle", hostOptions(60, 6, 10)} // undo of start and materialize
	Watch       = Activity[WatchIn, WatchOut]{"watch-host", watchOptions()}
)

// Activities on a host's bulk queue (BulkQueue).
var (
	Replicate = Activity[ReplicateIn, ReplicateOut]{"replicate", bulkOptions(15)}
	Verify    = Activity[VerifyIn, VerifyOut]{"verify", bulkOptions(15)}
	Prune     = Activity[PruneIn, PruneOut]{"prune", bulkOptions(60)}
)

// Activities of the control plane (ControlQueue).
var (
	Claim       = Activity[ClaimIn, RecordOut]{"claim", controlOptions(10, 5)}
	Permit      = Activity[PermitIn, RecordOut]{"permit", controlOptions(10, 5)}
	FencePower  = Activity[FenceIn, EvidenceOut]{"fence", controlOptions(85, 1)} // all levels of the host's devices
	FenceCheck  = Activity[FenceCheckIn, FenceCheckOut]{"fence-check", controlOptions(60, 1)}
	DropRecord  = Activity[Fence, None]{"drop-record", controlOptions(10, 5)}
	ReadRecord  = Activity[Fence, RecordOut]{"read-record", controlOptions(10, 5)}
	BeginRecord = Activity[PermitIn, RecordOut]{"begin-record", controlOptions(10, 5)} // generation 1 on the primary
)

// surrender must not wait long for a host that may be dead; the ladder has other rungs.
func surrenderOptions() workflow.ActivityOptions {
	o := hostOptions(30, 3, 1)
	o.ScheduleToStartTimeout = seconds(3)
	return o
}

// watch-host is the liveness heartbeat: three seconds without one and the host counts as silent.
func watchOptions() workflow.ActivityOptions {
	o := hostOptions(3600, 3, 1)
	o.ScheduleToStartTimeout = seconds(5)
	return o
}
