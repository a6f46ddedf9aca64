package contract

import (
	"time"

	"understudy/internal/model"
)

// FailoverIn starts a failover.
type FailoverIn struct {
	VM         model.VMRef      `json:"vm"`
	Generation model.Generation `json:"generation"` // to be claimed
	From       model.HostID     `json:"from"`
	To         model.HostID     `json:"to"`
	Reason     string           `json:"reason"`
	RequestBy  string           `json:"request_by"`
	Seq        model.Seq        `json:"seq"` // 0: newest verified
	// Newest is the point that is probably the newest; zero when nobody knows.
	Newest model.PointRef `json:"newest,omitzero"`
	// Confirmed is a person's word that the old host is off; nil when nobody said so.
	Confirmed *model.Evidence `json:"confirmed,omitempty"`
	// EvidenceTimeout bounds the search for evidence that the old VM is off.
	EvidenceTimeout time.Duration `json:"evidence_timeout_ns"`
	// Expect is the generation that must be the permitted one: the compare of compare-and-set.
	Expect model.Generation `json:"expect"`
	// FromSilent says that the old host is silent, so that its power may be cut without waiting for it to surrender first.
	FromSilent bool `json:"from_silent,omitempty"`
	// Place is the VM's among those that start together; nil asks nobody.
	Place *StartPlace `json:"place,omitempty"`
	// Salvage lets it read the dead VM's disks first; nil does not try.
	Salvage *Salvage `json:"salvage,omitempty"`
	// GuardLevel is the least level of the old host's guard at which a lease that ran out is evidence; 0 is 1.
	GuardLevel int `json:"guard_level,omitempty"`
	// Force takes a person's word at once, also where the old host is bound by a lease that could be waited for.
	Force bool `json:"force,omitempty"`
	// Action, Networks and Probes are of the policy.
	Action   model.Isolation   `json:"action,omitempty"`
	Networks map[string]string `json:"networks,omitempty"`
	Probes   []model.Probe     `json:"probes,omitempty"`
	// EncryptionAtRest is of the policy too: what the target's disks must be.
	EncryptionAtRest string `json:"encryption_at_rest,omitempty"`
	// ByPerson: it goes on when the old host is heard again; otherwise it is taken back then, because nothing is wrong.
	ByPerson bool `json:"by_person,omitempty"`
	// Silence is why it was begun: nothing but that the old host is not heard.
	Silence bool `json:"silence,omitempty"`
	// Hold waits for a person's commit or rollback once the VM runs, for HoldLimit at most.
	Hold bool `json:"hold,omitempty"`
	// Parent is the workflow that gets child-finished; empty for none.
	Parent string `json:"parent,omitempty"`
	// Planned makes it a switchover; nil for a failover.
	Planned *Planned `json:"planned,omitempty"`
}

// Outcomes of a failover.
const (
	OutcomeDone       = "done"        // the VM runs on the target
	OutcomeRolledBack = "rolled back" // the old host goes on under a new generation; nothing was started
	OutcomeFailed     = "failed"      // a person is needed
)

// FailoverStep is one line of the timeline.
type FailoverStep struct {
	Name   string        `json:"name"`
	At     time.Time     `json:"at"`
	Took   time.Duration `json:"took_ns"`
	Detail string        `json:"detail"`
	Error  string        `json:"error,omitempty"`
}

// FailoverOut is the result; also returned (inside the parent's state) when it was undone.
type FailoverOut struct {
	Outcome    string           `json:"outcome"` // "done", "rolled back", "failed"
	Generation model.Generation `json:"generation"`
	Point      PointSummary     `json:"point"`
	Evidence   *model.Evidence  `json:"evidence,omitempty"`
	Steps      []FailoverStep   `json:"steps"`
	Undone     []string         `json:"undone,omitempty"`
	UndoFailed []string         `json:"undo_failed,omitempty"`
	Disks      []model.Disk     `json:"disks,omitempty"` // on the new primary
	// Salvaged is the point that was made of the dead VM's disks.
	Salvaged *model.PointRef `json:"salvaged,omitempty"`
	// HandedBackTo is set when the failover was rolled back: the old host goes on under HandedBackGeneration.
	HandedBackTo         model.HostID     `json:"handed_back_to,omitempty"`
	HandedBackGeneration model.Generation `json:"handed_back_generation,omitempty"`
	Error                string           `json:"error,omitempty"`
	ErrorType            string           `json:"error_type,omitempty"`
	// PermittedTo is the host that holds the permit of Generation; empty when the failover ended before its permit.
	PermittedTo model.HostID `json:"permitted_to,omitempty"`
	Try         string       `json:"try,omitempty"`
	// Record is the control plane's record as this failover last saw it.
	Record *model.Record `json:"record,omitempty"`
	// Downtime is how long nothing ran in a switchover: from the order to pause until the new copy ran.
	Downtime time.Duration `json:"downtime_ns,omitempty"`
	// Planned says that it was a switchover.
	Planned bool `json:"planned,omitempty"`
	// HeldUntil is when it commits by itself; nil unless it waits for a person.
	HeldUntil *time.Time `json:"held_until,omitempty"`
	// TakenBackBy is the person who rolled it back or abandoned it.
	TakenBackBy string `json:"taken_back_by,omitempty"`
	// HeardAgain: it was taken back because the old host was heard before anything proved it off.
	HeardAgain bool `json:"heard_again,omitempty"`
}

// ChildFinishedIn is how a failover reports: its parent may have continued as new meanwhile.
type ChildFinishedIn struct {
	WorkflowID string      `json:"workflow_id"`
	Out        FailoverOut `json:"out"`
}

// SigChildFinished is sent by FailoverVM to ProtectVM.
var SigChildFinished = Signal[ChildFinishedIn]{"child-finished"}

// QueryFailover shows the running failover's timeline.
var QueryFailover = Query[FailoverOut]{"describe-failover"}
