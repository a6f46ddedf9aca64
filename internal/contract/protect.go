package contract

import (
	"encoding/json"
	"time"

	"understudy/internal/model"
)

// ProtectSpec is what the user asked for.
type ProtectSpec struct {
	VM      model.VMRef  `json:"vm"`
	Primary model.HostID `json:"primary"`
	Standby model.HostID `json:"standby"`
	Policy  model.Policy `json:"policy"`
	// Admission is asked of the primary's agent before anything begins.
	Admission AdmissionIn `json:"admission,omitzero"`
}

// ProtectIn starts a protection; State is nil on the first run and carried by continue-as-new.
type ProtectIn struct {
	Spec  ProtectSpec   `json:"spec"`
	State *ProtectState `json:"state,omitempty"`
}

// PauseInfo says who paused and why.
type PauseInfo struct {
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
}

// PointSummary is the short form of a point kept in the workflow's state; the store has the rest.
type PointSummary struct {
	model.PointRef
	TakenAt     time.Time         `json:"taken_at"`
	VerifiedAt  time.Time         `json:"verified_at"`
	Consistency model.Consistency `json:"consistency"`
	Modes       string            `json:"modes"` // worst mode of its disks
	DirtyBytes  int64             `json:"dirty_bytes"`
	SentBytes   int64             `json:"sent_bytes"`
	StallMS     float64           `json:"stall_ms"`
	CycleMS     float64           `json:"cycle_ms"`               // snapshot start to commit
	ReplicateMS float64           `json:"replicate_ms,omitempty"` // of the replicate stage, its last attempt
}

// Totals count since the protection began.
type Totals struct {
	Cycles      int64         `json:"cycles"` // committed points
	Skipped     int64         `json:"skipped"`
	Failures    int64         `json:"failures"`
	DirtyBytes  int64         `json:"dirty_bytes"`
	SentBytes   int64         `json:"sent_bytes"`
	MaxExposure time.Duration `json:"max_exposure_ns"`
	Violations  int64         `json:"violations"`
	FalseAlarms int64         `json:"false_alarms"` // a host fell silent for the control plane only, or a VM that was told dead was back by itself
	Restarts    int64         `json:"restarts,omitempty"`
	// Reseeds are points after the first that could not be a delta on every disk; VerifyFailures are copies whose proof failed.
	Reseeds        int64 `json:"reseeds,omitempty"`
	VerifyFailures int64 `json:"verify_failures,omitempty"`
}

// FailoverBrief is the running or last failover.
type FailoverBrief struct {
	WorkflowID string           `json:"workflow_id"`
	Generation model.Generation `json:"generation"`
	From       model.HostID     `json:"from"`
	To         model.HostID     `json:"to"`
	Reason     string           `json:"reason"`
	StartedAt  time.Time        `json:"started_at"`
	EndedAt    *time.Time       `json:"ended_at,omitempty"`
	Outcome    string           `json:"outcome,omitempty"` // "done", "rolled back", "failed"
	Error      string           `json:"error,omitempty"`
	Result     *FailoverOut     `json:"result,omitempty"`
	Planned    bool             `json:"planned,omitempty"` // a switchover
	Hold       bool             `json:"hold,omitempty"`    // it waits for commit or rollback once the VM runs
	// HeldUntil is when it commits by itself; nil unless it waits for a person now.
	HeldUntil *time.Time `json:"held_until,omitempty"`
}

// Alert is a state a person should know of; raised and cleared by the workflow.
type Alert struct {
	Name   string    `json:"name"`
	Since  time.Time `json:"since"`
	Detail string    `json:"detail"`
	Try    string    `json:"try,omitempty"`
}

// ProtectState is everything a protection knows. It is the continue-as-new argument and the answer of describe; nothing
// that matters lives outside it. Its size is bounded (Recent, CycleTimes and Alerts have a maximum).
type ProtectState struct {
	Schema     int              `json:"schema"`
	Phase      model.Phase      `json:"phase"`
	Accepted   bool             `json:"accepted"` // preflight passed
	Primary    model.HostID     `json:"primary"`  // roles now; they swap in a failover
	Standby    model.HostID     `json:"standby"`
	Policy     model.Policy     `json:"policy"`
	Generation model.Generation `json:"generation"`
	Disks      []model.Disk     `json:"disks"`
	NextSeq    model.Seq        `json:"next_seq"`
	Committed  model.PointRef   `json:"committed"` // newest verified point of the chain on the standby
	InFlight   *InFlight        `json:"in_flight,omitempty"`
	Paused     *PauseInfo       `json:"paused,omitempty"`
	Cadence    model.Cadence    `json:"cadence"`
	Gear       string           `json:"gear,omitempty"` // of the next cycle; of the one under way while there is one
	// Unreplicated is the time of the oldest guest write not in a verified point, nil when there is none.
	Unreplicated *time.Time         `json:"unreplicated,omitempty"`
	Observed     *model.Observation `json:"observed,omitempty"`
	Recent       []PointSummary     `json:"recent"` // newest last, at most 20
	CycleTimes   []time.Duration    `json:"cycle_times_ns"`
	Totals       Totals             `json:"totals"`
	Failures     int                `json:"failures"` // cycles failed in a row
	LastError    string             `json:"last_error,omitempty"`
	Alerts       []Alert            `json:"alerts"`
	Failover     *FailoverBrief     `json:"failover,omitempty"`
	HostSilent   map[string]bool    `json:"host_silent,omitempty"`
	LastLoad     string             `json:"last_load,omitempty"`    // of the primary's host, when it fell silent
	Start        *model.StartRule   `json:"start,omitempty"`        // its place in the recovery plan
	ForceResync  string             `json:"force_resync,omitempty"` // reason; the next cycle does not trust bitmaps

	// Claimed is the highest generation ever claimed or burnt; the next takeover goes above it.
	Claimed model.Generation `json:"claimed"`
	// Links are the receivers' addresses by host.
	Links map[string]string `json:"links,omitempty"`
	// StandbyReady is false from a failover until the returning host was demoted and checked.
	StandbyReady bool `json:"standby_ready"`
	// Assumed says that Unreplicated is an upper bound (the instant of the last capture), not yet an observed write.
	Assumed bool `json:"assumed,omitempty"`
	// Violating says that the present exposure was already counted in Totals.Violations.
	Violating bool `json:"violating,omitempty"`
	// Off says why the VM cannot be captured now (it is not running); empty when it can.
	Off string `json:"off,omitempty"`
	// Failed says why a person is needed; empty when nobody is.
	Failed string `json:"failed,omitempty"`
	// RetryAt is the end of the back-off after a failure.
	RetryAt *time.Time `json:"retry_at,omitempty"`
	// TakeUp says that a takeover was rolled back: the primary is told to go on, and starts what it had stopped for it.
	TakeUp bool `json:"take_up,omitempty"`
	// SkipFreeze makes the next capture crash-consistent, after the guest's agent failed to freeze.
	SkipFreeze bool `json:"skip_freeze,omitempty"`
	// Thaw is how many captures are still made without freezing the guest's file systems, after one that stalled it for too long;
	// ThawNext is how many it will be the next time.
	Thaw     int `json:"thaw,omitempty"`
	ThawNext int `json:"thaw_next,omitempty"`
	// Trigger is a reason to fail over that has not led to a finished failover yet.
	Trigger *FailoverTrigger `json:"trigger,omitempty"`
	// Reseed is the reason why the next point builds on nothing; the points that exist can still be started from.
	Reseed string `json:"reseed,omitempty"`
	// Warnings are what the checks of both hosts found and a person should know: what of the VM is in no point, among them.
	Warnings []string `json:"warnings,omitempty"`
	// Admission is what the primary's link was asked before it began; nil where no budget is set.
	Admission *Admission `json:"admission,omitempty"`
	// Points is how many the standby's store had after the newest was committed.
	Points int `json:"points,omitempty"`
	// Reread says that the resync was asked for by a person: the standby then reads its disks too.
	Reread bool `json:"reread,omitempty"`
	// Rediscover says that this run was begun from the record: points and hosts are looked for first.
	Rediscover bool `json:"rediscover,omitempty"`
	// KeptPolicy and KeptStandby are what the record was told last.
	KeptPolicy  int          `json:"kept_policy,omitempty"`
	KeptStandby model.HostID `json:"kept_standby,omitempty"`
	// Restarts are when the VM was started again where it died, newest last.
	Restarts []time.Time `json:"restarts,omitempty"`
	// Lease is what binds the primary; nil until it was told. Grantor is the control plane's own; nil when it grants nothing.
	Lease   *LeaseState    `json:"lease,omitempty"`
	Grantor *model.Grantor `json:"grantor,omitempty"`
	// StandbySilentAt is since when the standby is not heard; nil when it is.
	StandbySilentAt *time.Time `json:"standby_silent_at,omitempty"`
	// Leases are the hosts' parts in leases, by host.
	Leases map[string]HostLease `json:"leases,omitempty"`
	// Decisions are the last ones, newest last, at most 20; left out of describe (the explain query has them).
	Decisions []Decision `json:"decisions,omitempty"`
	// Learned is what the past cycles say about the next one: a document of internal/decide/cadence, below 16 kB, there only
	// between two runs. One that cannot be read is begun anew.
	Learned json.RawMessage `json:"learned,omitempty"`
	// FailoverTries counts failovers in a row that came to nothing; it sets the back-off until the next one.
	FailoverTries int `json:"failover_tries,omitempty"`

	// Seed is the base that the next point builds on while there is none on the standby: the disks that the VM left there.
	// Nothing can be started from it. Seeding says that it was tried.
	Seed   model.PointRef `json:"seed,omitzero"`
	Seeded bool           `json:"seeded,omitempty"`
	// From is the point that the VM was started from on this primary; zero on the host where it was protected first.
	From   model.PointRef `json:"from,omitzero"`
	Rescue *Rescue        `json:"rescue,omitempty"`
	// Tests are the last test failovers, newest last, at most 20; Testing is the one that runs. NextTest is its number, and
	// BootAfter postpones a scheduled one.
	Tests     []TestResult    `json:"tests,omitempty"`
	Testing   *TestFailoverIn `json:"testing,omitempty"`
	NextTest  int             `json:"next_test,omitempty"`
	BootAfter *time.Time      `json:"boot_after,omitempty"`
	// Told counts what was written to the memo, for whoever waits until a list shows it.
	Told int64 `json:"told,omitempty"`
}

// FailoverTrigger is why a failover is wanted.
type FailoverTrigger struct {
	Reason  string       `json:"reason"`
	By      string       `json:"by"` // "agent", "hostwatch", a monitoring source or a person
	At      time.Time    `json:"at"`
	Host    model.HostID `json:"host"`   // the primary it is about
	Silent  bool         `json:"silent"` // the host itself is thought dead, not only the VM
	Request bool         `json:"request"`
	// Confirmed and Seq come from a person's request.
	Confirmed bool      `json:"confirmed,omitempty"`
	NoRestart bool      `json:"no_restart,omitempty"` // starting it again where it was has failed
	Force     bool      `json:"force,omitempty"`      // do not wait for the lease of a host that a person confirmed to be off
	Seq       model.Seq `json:"seq,omitempty"`
	// Planned asks for a switchover.
	Planned *SwitchoverRequestIn `json:"planned,omitempty"`
	Hold    bool                 `json:"hold,omitempty"` // commit or roll back when it runs
}

// InFlight is the cycle under way, for progress bars and for cleaning up after a failure.
type InFlight struct {
	model.PointRef
	// Stage is snapshot, replicate, verify; capture and send while one activity does the first two; unclear when verify may have
	// committed.
	Stage     string    `json:"stage"`
	StartedAt time.Time `json:"started_at"`
	// Origin is the oldest write that this capture holds; exposure counts from here until it is verified.
	Origin     *time.Time `json:"origin,omitempty"`
	DirtyBytes int64      `json:"dirty_bytes"`
	// TakenAt is the instant of the capture on the primary's clock; zero until the snapshot was made.
	TakenAt time.Time `json:"taken_at,omitzero"`
}

// DescribeOut is the answer of the describe query.
type DescribeOut struct {
	Spec  ProtectSpec  `json:"spec"`
	State ProtectState `json:"state"`
}

// UtilizationIn tells a protection that its VM's writing changed enough to matter.
type UtilizationIn struct {
	Observation model.Observation `json:"observation"`
	Why         string            `json:"why"`
}

// VMEventIn reports a libvirt event.
type VMEventIn struct {
	Host  model.HostID `json:"host"`
	Event model.Event  `json:"event"`
}

// HostSignalIn tells a protection that a host fell silent or was heard again.
type HostSignalIn struct {
	Host   model.HostID `json:"host"`
	At     time.Time    `json:"at"`
	Detail string       `json:"detail"`
	// Facts are the newest: with host-recovered the address of the receiver may have changed, with host-suspect they tell how
	// busy the host was.
	Facts *model.HostFacts `json:"facts,omitempty"`
}

// CrashIn is the crash signal from external monitoring.
type CrashIn struct {
	Source string `json:"source"`
	Reason string `json:"reason"`
}

// PauseIn pauses a protection.
type PauseIn struct {
	By     string `json:"by"`
	Reason string `json:"reason"`
}

// ResumeIn resumes it.
type ResumeIn struct {
	By string `json:"by"`
}

// SetPolicyIn replaces the policy.
type SetPolicyIn struct {
	Policy model.Policy `json:"policy"`
}

// ReplicateNowIn asks for a cycle at once.
type ReplicateNowIn struct {
	By string `json:"by"`
	// Resync makes the cycle compare digests of everything instead of trusting bitmaps.
	Resync bool `json:"resync"`
}

// ReplicateNowOut is the point that was committed after the request.
type ReplicateNowOut struct {
	Point PointSummary `json:"point"`
}

// FailoverRequestIn asks for an unplanned failover.
type FailoverRequestIn struct {
	By     string `json:"by"`
	Reason string `json:"reason"`
	// ConfirmPrimaryDown is a person's word that the primary's host is off ("the domain is not running" is not enough).
	ConfirmPrimaryDown bool `json:"confirm_primary_down"`
	// Force takes that word at once; without it a lease that binds the host is waited for all the same.
	Force bool `json:"force,omitempty"`
	// Seq chooses a point; 0 takes the newest verified one.
	Seq model.Seq `json:"seq"`
	// Hold keeps it open for commit or rollback once the VM runs.
	Hold bool `json:"hold,omitempty"`
}

// FailoverRequestOut names the failover that runs.
type FailoverRequestOut struct {
	WorkflowID string           `json:"workflow_id"`
	Generation model.Generation `json:"generation"`
}

// UnprotectIn ends a protection.
type UnprotectIn struct {
	By string `json:"by"`
	// PurgeReplica removes the points on the standby too.
	PurgeReplica bool `json:"purge_replica"`
}

// UnprotectOut says what was left.
type UnprotectOut struct {
	Leftovers []string `json:"leftovers"` // marks that could not be removed because a host is silent
}

// Messages of ProtectVM. Updates are for people and the CLI (validated, answered); signals for machines that do not wait.
var (
	SigUtilization   = Signal[UtilizationIn]{"utilization"}
	SigVMEvent       = Signal[VMEventIn]{"vm-event"}
	SigHostSuspect   = Signal[HostSignalIn]{"host-suspect"}
	SigHostRecovered = Signal[HostSignalIn]{"host-recovered"}
	SigCrash         = Signal[CrashIn]{"crash"} // external monitoring
	SigForceCAN      = Signal[None]{"force-continue-as-new"}

	UpdAwaitReady   = Update[None, DescribeOut]{"await-ready"} // answers when preflight passed, fails with its error
	UpdPause        = Update[PauseIn, DescribeOut]{"pause"}
	UpdResume       = Update[ResumeIn, DescribeOut]{"resume"}
	UpdSetPolicy    = Update[SetPolicyIn, DescribeOut]{"set-policy"}
	UpdReplicateNow = Update[ReplicateNowIn, ReplicateNowOut]{"replicate-now"}
	UpdFailover     = Update[FailoverRequestIn, FailoverRequestOut]{"request-failover"}
	UpdUnprotect    = Update[UnprotectIn, UnprotectOut]{"unprotect"}

	QueryDescribe = Query[DescribeOut]{"describe"}
	QueryExplain  = Query[ExplainOut]{"explain"}
)
