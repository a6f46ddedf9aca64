package contract

import (
	"time"

	"understudy/internal/model"
)

// Keys of a protection's memo. MemoVM lets a VM be found by name without asking every protection; the other two are what a
// list of many shows, so that it needs no query of each: MemoListed changes rarely, MemoNow with every cycle.
const (
	MemoVM     = "vm"
	MemoListed = "listed"
	MemoNow    = "now"
)

// Listed is the part of a protection's state that a list shows and that changes rarely.
type Listed struct {
	VM           model.VMRef      `json:"vm"`
	Phase        model.Phase      `json:"phase"`
	Primary      model.HostID     `json:"primary"`
	Standby      model.HostID     `json:"standby"`
	StandbyReady bool             `json:"standby_ready"`
	Generation   model.Generation `json:"generation"`
	Policy       model.Policy     `json:"policy"`
	Paused       *PauseInfo       `json:"paused,omitempty"`
	Off          string           `json:"off,omitempty"`
	Warnings     []string         `json:"warnings,omitempty"`
	Admission    *Admission       `json:"admission,omitempty"`
	Lease        *LeaseState      `json:"lease,omitempty"`
	Failover     *FailoverBrief   `json:"failover,omitempty"` // it has ended
	Tests        []TestResult     `json:"tests,omitempty"`
	Rescue       *Rescue          `json:"rescue,omitempty"`
}

// Now is the part that changes with every cycle. Rev counts what was said, for whoever waits until the list shows it.
type Now struct {
	Rev int64 `json:"rev"`
	// Plain says that the memo holds all there is to say, until the protection means to do something new or its exposure comes
	// to be a risk. Otherwise, and later, it has to be asked itself.
	Plain bool      `json:"plain"`
	Until time.Time `json:"until,omitzero"`

	Cadence      model.Cadence     `json:"cadence,omitzero"`
	Gear         string            `json:"gear,omitempty"`
	Unreplicated *time.Time        `json:"unreplicated,omitempty"`
	Assumed      bool              `json:"assumed,omitempty"`
	Committed    model.PointRef    `json:"committed,omitzero"`
	Last         *PointSummary     `json:"last,omitempty"`
	Points       int               `json:"points,omitempty"`
	Totals       Totals            `json:"totals,omitzero"`
	Memory       *model.MemoryRate `json:"memory,omitempty"`
}

// ListedOf a protection.
func ListedOf(vm model.VMRef, st ProtectState) Listed {
	return Listed{
		VM: vm, Phase: st.Phase, Primary: st.Primary, Standby: st.Standby, StandbyReady: st.StandbyReady, Generation: st.Generation,
		Policy: st.Policy, Paused: st.Paused, Off: st.Off, Warnings: st.Warnings, Admission: st.Admission, Lease: st.Lease,
		Failover: st.Failover, Tests: st.Tests, Rescue: st.Rescue,
	}
}

// NowOf a protection of which there is nothing else to say until then.
func NowOf(rev int64, st ProtectState, until time.Time) Now {
	n := Now{
		Rev: rev, Plain: true, Until: until, Cadence: st.Cadence, Gear: st.Gear, Unreplicated: st.Unreplicated, Assumed: st.Assumed,
		Committed: st.Committed, Points: st.Points, Totals: st.Totals,
	}
	if st.Observed != nil {
		n.Memory = st.Observed.Memory
	}
	if len(st.Recent) > 0 {
		n.Last = &st.Recent[len(st.Recent)-1]
	}
	return n
}

// Describe is the reverse: what a list needs of the answer to the describe query.
func (l Listed) Describe(n Now) DescribeOut {
	st := ProtectState{
		Accepted: true, Phase: l.Phase, Primary: l.Primary, Standby: l.Standby, StandbyReady: l.StandbyReady, Generation: l.Generation,
		Policy: l.Policy, Paused: l.Paused, Off: l.Off, Warnings: l.Warnings, Admission: l.Admission, Lease: l.Lease,
		Failover: l.Failover, Tests: l.Tests, Rescue: l.Rescue,
		Cadence: n.Cadence, Gear: n.Gear, Unreplicated: n.Unreplicated, Assumed: n.Assumed, Committed: n.Committed, Points: n.Points, Totals: n.Totals,
		Alerts: []Alert{}, Told: n.Rev,
	}
	if n.Memory != nil {
		st.Observed = &model.Observation{At: n.Memory.At, DirtyBytes: -1, Memory: n.Memory}
	}
	if n.Last != nil {
		st.Recent = []PointSummary{*n.Last}
	}
	return DescribeOut{Spec: ProtectSpec{VM: l.VM, Primary: l.Primary, Standby: l.Standby, Policy: l.Policy}, State: st}
}
