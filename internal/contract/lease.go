package contract

import (
	"time"

	"understudy/internal/model"
)

// HoldIn tells a host what it holds: the adoption of a running VM when protection begins, the commit of a takeover
// (probation to sole) and the change from sole to leased. Repeating it is success; a mode below the present one of the
// same generation is Conflict.
type HoldIn struct {
	Fence
	Mode     model.LeaseMode `json:"mode"`
	Grantors []model.Grantor `json:"grantors,omitempty"`
	Action   model.Isolation `json:"action,omitempty"`
}

// HoldOut says under which terms. In mode leased it is answered only when the guard is armed under a live grant and both
// are durable.
type HoldOut struct {
	Terms model.LeaseTerms `json:"terms"`
}

// SetModeIn changes the mode in the control plane's record: to sole before the holder, to leased after it [C14].
type SetModeIn struct {
	Fence
	Host  model.HostID     `json:"host"`
	Mode  model.LeaseMode  `json:"mode"`
	Terms model.LeaseTerms `json:"terms"`
}

// AwaitLeaseIn waits on the target until a lease of the old holder has run out: Wait on CLOCK_BOOTTIME since its own seal of
// this attempt, from zero again when its process is another one by now [C5].
type AwaitLeaseIn struct {
	Fence
	Attempt string        `json:"attempt"`
	Wait    time.Duration `json:"wait_ns"`
}

// LeaseState is what binds the primary now, as both sides acknowledged it.
type LeaseState struct {
	Generation model.Generation `json:"generation"`
	Mode       model.LeaseMode  `json:"mode"`
	Terms      model.LeaseTerms `json:"terms"` // the primary's
	Grantors   []model.Grantor  `json:"grantors,omitempty"`
	// Why it is not leased, when it is not: what a takeover of a silent host needs instead.
	Why string `json:"why,omitempty"`
}

// Wait is how long a takeover of a silent primary waits for its lease; 0 when a lease proves nothing.
func (l *LeaseState) Wait() time.Duration {
	if l == nil || l.Mode == model.ModeSole {
		return 0
	}
	return l.Terms.Wait()
}

// HostLease is what a protection knows of a host's part in leases.
type HostLease struct {
	GrantorID string           `json:"grantor_id"`
	Terms     model.LeaseTerms `json:"terms"`
}

// GrantorMoved tells a protection where the control plane grants leases from now on.
type GrantorMoved struct {
	Grantor model.Grantor `json:"grantor"`
}

// Messages and activities of the lease.
var (
	SigGrantorMoved = Signal[GrantorMoved]{"grantor-moved"}

	Hold       = Activity[HoldIn, HoldOut]{"hold", hostOptions(30, 6, 2)}
	AwaitLease = Activity[AwaitLeaseIn, EvidenceOut]{"await-lease", hostOptions(600, 6, 5)}
	SetMode    = Activity[SetModeIn, RecordOut]{"set-mode", controlOptions(10, 5)}
)
