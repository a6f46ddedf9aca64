package contract

import (
	"time"

	"understudy/internal/model"
)

// What people tell a failover that runs.
const (
	OrderCommit   = "commit"   // of one that is held: the VM stays where it runs now
	OrderRollback = "rollback" // of one that is held: back to where it was
	OrderAbandon  = "abandon"  // before anything was started: let it be, and do not try again by itself
	OrderConfirm  = "confirm"  // the old host is off
)

// FailoverOrder is such a word.
type FailoverOrder struct {
	Kind   string    `json:"kind"`
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	Force  bool      `json:"force,omitempty"` // of confirm: do not wait for a lease
	At     time.Time `json:"at"`
}

// FailoverHeld tells a protection that its failover waits for a person.
type FailoverHeld struct {
	WorkflowID string    `json:"workflow_id"`
	Until      time.Time `json:"until"` // it commits by itself then
}

// HostNews tells a failover that one of its hosts fell silent or was heard.
type HostNews struct {
	Host   model.HostID `json:"host"`
	Silent bool         `json:"silent"`
}

// ProbeIn asks the guest of a VM that was started whether it serves.
type ProbeIn struct {
	Fence
	Probes []model.Probe `json:"probes"`
}

// ProbeOut says what answered.
type ProbeOut struct {
	Answered string `json:"answered"`
}

// FitIn asks a target whether a point can be started there, before anything is claimed. It changes nothing.
type FitIn struct {
	VM       model.VMRef       `json:"vm"`
	Point    model.PointRef    `json:"point"`
	Networks map[string]string `json:"networks,omitempty"`
	// EncryptionAtRest is the policy's.
	EncryptionAtRest string `json:"encryption_at_rest,omitempty"`
}

// FitOut is what will be different there.
type FitOut struct {
	Notes []string `json:"notes"`
}

// HoldLimit is how long a failover that is held waits for a person: until then it depends on the control plane alone.
const HoldLimit = 10 * time.Minute

// Messages and activities.
var (
	SigFailoverOrder = Signal[FailoverOrder]{"failover-order"} // to FailoverVM
	SigHostNews      = Signal[HostNews]{"host-news"}           // to FailoverVM
	SigFailoverHeld  = Signal[FailoverHeld]{"failover-held"}   // to ProtectVM

	UpdConclude = Update[FailoverOrder, FailoverBrief]{"conclude-failover"} // of ProtectVM; answers when the failover has ended

	Probe = Activity[ProbeIn, ProbeOut]{"probe", hostOptions(660, 6, 2)}
	Fit   = Activity[FitIn, FitOut]{"fit", hostOptions(20, 0, 2)}
)
