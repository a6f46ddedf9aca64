package cli

import (
	"fmt"
	"time"

	"understudy/internal/contract"
	"understudy/internal/model"
	"understudy/internal/obs"
)

// statusView is the documented JSON of `understudy status`; fields are added, never renamed (docs/CLI.md).
type statusView struct {
	MessageType string           `json:"message_type"` // "status"
	Protections []protectionView `json:"protections"`
}

type protectionView struct {
	MessageType string         `json:"message_type,omitempty"` // "protection" when it stands alone
	VM          string         `json:"vm"`
	UUID        string         `json:"uuid"`
	Phase       model.Phase    `json:"phase"`
	Primary     model.HostID   `json:"primary"`
	Standby     model.HostID   `json:"standby"`
	Generation  uint64         `json:"generation"`
	RPO         rpoView        `json:"rpo"`
	Cadence     cadenceView    `json:"cadence"`
	LastPoint   *pointBrief    `json:"last_point"`
	Points      int            `json:"points"`
	Failover    *failoverView  `json:"failover"`
	Alerts      []alertView    `json:"alerts"`
	Warnings    []string       `json:"warnings"`
	Admission   *admissionView `json:"admission,omitempty"`

	Policy    policyView    `json:"policy"`
	Reason    string        `json:"reason,omitempty"` // of Suspended and Failed
	LastError string        `json:"last_error,omitempty"`
	InFlight  *inFlightView `json:"in_flight,omitempty"`
	Totals    totalsView    `json:"totals"`

	LastTest *testView   `json:"last_test"`       // of the test failovers
	Tests    []testView  `json:"tests,omitempty"` // newest last
	Rescue   *rescueView `json:"rescue,omitempty"`
	Lease    *leaseView  `json:"lease"`
	Memory   *memoryView `json:"guest_memory,omitempty"`
}

// leaseView says what a failover of a silent primary would rest on.
type leaseView struct {
	Mode       model.LeaseMode `json:"mode"`
	WaitS      float64         `json:"wait_s"` // 0: a lease proves nothing, it needs a fence or a person
	GuardLevel int             `json:"guard_level"`
	Why        string          `json:"why,omitempty"` // it is not leased
}

func leaseOf(l *contract.LeaseState) *leaseView {
	if l == nil {
		return nil
	}
	return &leaseView{Mode: l.Mode, WaitS: l.Wait().Seconds(), GuardLevel: l.Terms.GuardLevel, Why: l.Why}
}

// words is one line for people.
func (l *leaseView) words() string {
	switch {
	case l == nil:
		return ""
	case l.WaitS > 0:
		return fmt.Sprintf("%s; a silent primary is outlasted in %.0f s (guard level %d)", l.Mode, l.WaitS, l.GuardLevel)
	case l.Why != "":
		return string(l.Mode) + "; a silent primary needs a fence or a person: " + l.Why
	}
	return string(l.Mode) + "; a silent primary needs a fence or a person"
}

// rescueView is what the VM's former host keeps of it.
type rescueView struct {
	Host         model.HostID `json:"host"`
	Disks        []string     `json:"disks"`
	Since        time.Time    `json:"since"`
	Unreplicated *int64       `json:"unreplicated_bytes"` // null while it is not known
}

// admissionView is what the primary's link was asked before the protection began; shares are of its budget.
type admissionView struct {
	Verdict  string   `json:"verdict"`
	Reason   string   `json:"reason"`
	Budget   int64    `json:"budget"`
	Before   float64  `json:"before"`
	After    float64  `json:"after"`
	Promised float64  `json:"promised"`
	Demand   int64    `json:"demand_bytes"`
	Sampled  float64  `json:"sampled_s,omitempty"`
	Others   []string `json:"others,omitempty"`
	Late     []string `json:"late,omitempty"`
	Forced   bool     `json:"forced,omitempty"`
	Window   string   `json:"window,omitempty"` // of the calendar, whose RPO was judged
}

type rpoView struct {
	Target   float64        `json:"target_s"`
	Exposure float64        `json:"exposure_s"`
	State    model.RPOState `json:"state"`
	Window   string         `json:"window,omitempty"` // of the calendar, that is open
}

type cadenceView struct {
	Interval float64       `json:"interval_s"`
	NextAt   *time.Time    `json:"next_at"`
	Reason   string        `json:"reason"`
	Binding  model.Binding `json:"binding"`
	// Gear is how the next cycle is made, or the one under way: "merged" (captured and sent in one) or "stages".
	Gear string `json:"gear,omitempty"`
}

type pointBrief struct {
	Seq         uint64            `json:"seq"`
	Generation  uint64            `json:"generation"`
	TakenAt     time.Time         `json:"taken_at"`
	VerifiedAt  time.Time         `json:"verified_at"`
	Consistency model.Consistency `json:"consistency"`
	Mode        string            `json:"mode"`
	DirtyBytes  int64             `json:"dirty_bytes"`
	SentBytes   int64             `json:"sent_bytes"`
	Stall       float64           `json:"stall_ms"`
	Cycle       float64           `json:"cycle_ms"`
	Replicate   float64           `json:"replicate_ms"`
}

type alertView struct {
	Name   string    `json:"name"`
	Since  time.Time `json:"since"`
	Detail string    `json:"detail"`
	Try    string    `json:"try,omitempty"`
}

type policyView struct {
	Version     int                `json:"version"`
	RPO         float64            `json:"rpo_s"`
	Tier        model.Tier         `json:"tier"`
	KeepLast    int                `json:"keep_last"`
	Failover    model.FailoverMode `json:"failover"`
	Freeze      bool               `json:"freeze"`
	Bandwidth   int64              `json:"bandwidth"` // bytes/s, 0 unbounded
	Compression string             `json:"compression"`
	Hourly      int                `json:"hourly,omitempty"`
	Daily       int                `json:"daily,omitempty"`
	Windows     []string           `json:"windows,omitempty"` // of the calendar, in words
	RTO         float64            `json:"rto_s,omitempty"`
	BootEvery   float64            `json:"boot_every_s,omitempty"`
	MaxStall    float64            `json:"max_stall_ms,omitempty"`
	CPUShare    float64            `json:"cpu_share,omitempty"` // of one core
	Salvage     float64            `json:"salvage_s,omitempty"`
	Probes      []model.Probe      `json:"probes,omitempty"`
	Networks    map[string]string  `json:"networks,omitempty"`
	Isolation   model.Isolation    `json:"isolation,omitempty"`
	GuardLevel  int                `json:"guard_level,omitempty"`
	InPlace     int                `json:"recover_in_place,omitempty"`
	AtRest      string             `json:"encryption_at_rest,omitempty"`
}

type inFlightView struct {
	Seq       uint64    `json:"seq"`
	Stage     string    `json:"stage"`
	StartedAt time.Time `json:"started_at"`
}

type totalsView struct {
	Cycles      int64   `json:"cycles"`
	Skipped     int64   `json:"skipped"`
	Failures    int64   `json:"failures"`
	DirtyBytes  int64   `json:"dirty_bytes"`
	SentBytes   int64   `json:"sent_bytes"`
	MaxExposure float64 `json:"max_exposure_s"`
	Violations  int64   `json:"violations"`
}

type failoverView struct {
	MessageType string          `json:"message_type,omitempty"` // "failover" when it stands alone
	VM          string          `json:"vm,omitempty"`
	WorkflowID  string          `json:"workflow_id"`
	Generation  uint64          `json:"generation"`
	From        model.HostID    `json:"from"`
	To          model.HostID    `json:"to"`
	Reason      string          `json:"reason"`
	StartedAt   time.Time       `json:"started_at"`
	EndedAt     *time.Time      `json:"ended_at"`
	Outcome     string          `json:"outcome"` // empty while it runs
	Error       string          `json:"error,omitempty"`
	ErrorType   string          `json:"error_type,omitempty"`
	Point       *pointBrief     `json:"point"`
	Evidence    *model.Evidence `json:"evidence"`
	Steps       []stepView      `json:"steps"`
	Undone      []string        `json:"undone,omitempty"`
	UndoFailed  []string        `json:"undo_failed,omitempty"`
	Planned     bool            `json:"planned,omitempty"`    // a switchover
	Downtime    float64         `json:"downtime_s,omitempty"` // of it: nothing ran
	HeldUntil   *time.Time      `json:"held_until,omitempty"` // it waits for commit or rollback, and commits by itself then
}

type stepView struct {
	Name   string    `json:"name"`
	At     time.Time `json:"at"`
	Took   float64   `json:"took_s"`
	Detail string    `json:"detail"`
	Error  string    `json:"error,omitempty"`
}

// viewOf judges at the moment of asking: the workflow sleeps between its looks, the age of a write does not.
func viewOf(d contract.DescribeOut, now time.Time) protectionView {
	st := d.State
	v := protectionView{
		VM: d.Spec.VM.Name, UUID: d.Spec.VM.UUID, Phase: st.Phase, Primary: st.Primary, Standby: st.Standby,
		Generation: uint64(st.Generation), RPO: rpoOf(st, now), Lease: leaseOf(st.Lease), Points: st.Points, LastPoint: lastPoint(st),
		Cadence: cadenceView{Interval: st.Cadence.Interval.Seconds(), NextAt: timeOrNil(st.Cadence.NextAt), Reason: st.Cadence.Reason, Binding: st.Cadence.Binding, Gear: st.Gear},
		Alerts:  []alertView{}, Warnings: append([]string{}, st.Warnings...), Policy: policyOf(st.Policy), LastError: st.LastError,
		Totals: totalsView{
			Cycles: st.Totals.Cycles, Skipped: st.Totals.Skipped, Failures: st.Totals.Failures, DirtyBytes: st.Totals.DirtyBytes,
			SentBytes: st.Totals.SentBytes, MaxExposure: st.Totals.MaxExposure.Seconds(), Violations: st.Totals.Violations,
		},
	}
	if o := st.Observed; o != nil {
		v.Memory = memoryOf(o.Memory)
	}
	if a := st.Admission; a != nil {
		view := admissionView(*a)
		v.Admission = &view
	}
	switch {
	case st.Failed != "":
		v.Reason = st.Failed
	case st.Paused != nil:
		v.Reason = "paused by " + st.Paused.By
		if st.Paused.Reason != "" {
			v.Reason += ": " + st.Paused.Reason
		}
	case st.Off != "":
		v.Reason = st.Off
	}
	if st.InFlight != nil {
		v.InFlight = &inFlightView{Seq: uint64(st.InFlight.Seq), Stage: st.InFlight.Stage, StartedAt: st.InFlight.StartedAt}
	}
	if st.Failover != nil {
		f := failoverOf(*st.Failover)
		v.Failover = &f
	}
	for _, r := range st.Tests {
		v.Tests = append(v.Tests, testOf(r))
	}
	if n := len(v.Tests); n > 0 {
		v.LastTest = &v.Tests[n-1]
	}
	if r := st.Rescue; r != nil && len(r.Disks) > 0 {
		v.Rescue = &rescueView{Host: r.Host, Disks: r.Disks, Since: r.Since}
		if r.Unreplicated >= 0 {
			v.Rescue.Unreplicated = &r.Unreplicated
		}
	}
	for _, a := range st.Alerts {
		v.Alerts = append(v.Alerts, alertView(a))
	}
	return v
}

func rpoOf(st contract.ProtectState, now time.Time) rpoView {
	p := obs.PromiseOf(st, now)
	return rpoView{Target: p.Target.Seconds(), Exposure: p.Exposure.Seconds(), State: p.State, Window: p.Window}
}

// outside says that the VM is outside its promise: exit 3.
func (v protectionView) outside() bool {
	switch v.Phase {
	case model.PhaseFailed, model.PhaseFailingOver:
		return true
	case model.PhaseSeeding, model.PhaseProtected, model.PhaseDegraded, model.PhaseSuspended:
	}
	return v.RPO.State == model.RPOViolated || v.RPO.State == model.RPOUnknown
}

func lastPoint(st contract.ProtectState) *pointBrief {
	if len(st.Recent) == 0 {
		return nil
	}
	return briefOf(st.Recent[len(st.Recent)-1])
}

func briefOf(p contract.PointSummary) *pointBrief {
	return &pointBrief{
		Seq: uint64(p.Seq), Generation: uint64(p.Generation), TakenAt: p.TakenAt, VerifiedAt: p.VerifiedAt, Consistency: p.Consistency,
		Mode: p.Modes, DirtyBytes: p.DirtyBytes, SentBytes: p.SentBytes, Stall: p.StallMS, Cycle: p.CycleMS, Replicate: p.ReplicateMS,
	}
}

func policyOf(p model.Policy) policyView {
	return policyView{
		Version: p.Version, RPO: p.RPO.Seconds(), Tier: p.Tier, KeepLast: p.KeepLast, Failover: p.Failover, Freeze: p.Freeze,
		Bandwidth: p.MaxBandwidth, Compression: p.Compression, Hourly: p.Hourly, Daily: p.Daily, Windows: windowsOf(p),
		RTO: p.RTO.Seconds(), BootEvery: p.BootEvery.Seconds(), MaxStall: p.MaxStall.Seconds() * 1000, CPUShare: p.CPUShare, Salvage: p.Salvage.Seconds(),
		Probes: p.Probes, Networks: p.Networks, Isolation: p.Isolation, GuardLevel: p.GuardLevel, InPlace: p.RecoverInPlace, AtRest: p.EncryptionAtRest,
	}
}

func failoverOf(f contract.FailoverBrief) failoverView {
	v := failoverView{
		WorkflowID: f.WorkflowID, Generation: uint64(f.Generation), From: f.From, To: f.To, Reason: f.Reason, StartedAt: f.StartedAt,
		EndedAt: f.EndedAt, Outcome: f.Outcome, Error: f.Error, Steps: []stepView{},
		Planned: f.Planned, HeldUntil: f.HeldUntil,
	}
	if r := f.Result; r != nil {
		v.Evidence, v.ErrorType, v.Undone, v.UndoFailed = r.Evidence, r.ErrorType, r.Undone, r.UndoFailed
		v.Downtime = r.Downtime.Seconds()
		if r.HeldUntil != nil {
			v.HeldUntil = r.HeldUntil
		}
		if r.Point.Seq != 0 {
			v.Point = briefOf(r.Point)
		}
		for _, s := range r.Steps {
			v.Steps = append(v.Steps, stepView{Name: s.Name, At: s.At, Took: s.Took.Seconds(), Detail: s.Detail, Error: s.Error})
		}
	}
	return v
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
