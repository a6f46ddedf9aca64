package workflows

import (
	"encoding/json"
	"time"

	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/decide/cadence"
	"understudy/internal/model"
)

const (
	// A transfer that is small and short measures the connection, not the throughput, unless it was faster than what is known.
	smallTransfer = 256 << 10
	shortTransfer = time.Second
	seedGuard     = 0.7         // of the throughput of a first copy
	earlyLook     = time.Minute // from this RPO on a second look a cycle is cheap, and shows how the writes saturate
	knowsEnough   = 8           // cycles; before, the law is careful and slack says little
	noise         = time.Second // a start that is so much late is no sign that things do not fit
	shortWindow   = 8           // part of the RPO
	cpuBudget     = 0.85        // of the host: above it nothing is compressed harder
)

// learned is what the past says about the next cycle. It lives as long as the roles: other hosts have another throughput.
type learned struct {
	cadence.Learned
	Ladder  cadence.Ladder  `json:"ladder"`
	Gears   cadence.Gearbox `json:"gears"`
	Size    dirtySize       `json:"size"`
	LinkUse float64         `json:"link_use"` // of the host's budget, by all
	CPU     spent           `json:"cpu"`
	Granted int64           `json:"granted"` // bytes/s, when the grant was less than the transfer could have used
}

// dirtySize is the newest answer about the dirty clusters, and what the counters said then.
type dirtySize struct {
	At      time.Time `json:"at,omitzero"`
	Dirty   int64     `json:"dirty"`
	Written int64     `json:"written"`
}

// share is what the link gives, bytes/s; 0 when that is not limited.
func (l *learned) share(limit int64) float64 {
	switch {
	case l.Granted > 0 && (limit <= 0 || l.Granted < limit):
		return float64(l.Granted)
	case limit > 0:
		return float64(limit)
	}
	return 0
}

// recall reads what the run before has learned; nothing when it cannot be read: the law is careful then.
func recall(raw json.RawMessage) (l learned) {
	if len(raw) > 0 && json.Unmarshal(raw, &l) != nil {
		return learned{}
	}
	return l
}

// keepLearned puts it into the state for the next run.
func (p *protection) keepLearned() {
	raw, err := json.Marshal(p.learned)
	if err != nil {
		p.log.Warn("what was learned is forgotten", "error", err)
		raw = nil
	}
	p.st.Learned = raw
}

// learnCounters takes an observation in. Its counters begin at the newest capture, which may be one that is still on its way.
func (p *protection) learnCounters(ctx workflow.Context, o model.Observation) {
	capture, l := p.lastCapture(), &p.learned
	if o.Host != nil && o.Host.LinkBudget > 0 {
		l.LinkUse = o.Host.LinkUse
	}
	if fl := p.st.InFlight; fl != nil {
		if fl.TakenAt.IsZero() || !o.At.After(fl.TakenAt) {
			return // it may count from either capture
		}
		capture = fl.TakenAt
	}
	if p.givenBack { // the writes of an abandoned capture are in the counters again: a jump that is no burst
		p.givenBack = false
		l.SeenAt, l.SeenW = o.At, o.WrittenBytes
		return
	}
	if capture.IsZero() || !o.At.After(capture) {
		return
	}
	if p.settling && o.At.Sub(capture) < p.rpo(ctx)/shortWindow {
		return // a rate over so little time would look like a storm, and be remembered
	}
	c := cadence.Counters{At: o.At, Written: o.WrittenBytes, Dirty: -1}
	if at := p.countedAt(o); at.After(capture) && at.After(p.settledAt) {
		c.Dirty = o.DirtyBytes
		since := max(o.At.Sub(at).Seconds()*o.WriteRate, 0)
		l.Size = dirtySize{o.At, o.DirtyBytes, max(o.WrittenBytes-int64(since), 0)}
	}
	l.Look(c, capture, p.rpo(ctx))
	if h := o.Host; h != nil {
		l.LinkUse = 0
		if h.LinkBudget > 0 {
			l.LinkUse = h.LinkUse
		}
	}
}

// countedAt is when the dirty clusters since the newest committed point were counted; zero when they were not. Until the
// primary is settled its agent counts from the point before.
func (p *protection) countedAt(o model.Observation) time.Time {
	switch {
	case o.DirtyBytes < 0 || p.st.InFlight != nil:
		return time.Time{}
	case o.DirtyAt != nil:
		return *o.DirtyAt
	}
	return o.At
}

// learnCycle takes a verified cycle in, before it is committed. due is when it was to start: a timer that fires late is a
// cost like any other. Copies of whole disks say nothing about deltas, except what the link carries.
func (p *protection) learnCycle(ctx workflow.Context, c capture, sent contract.ReplicateOut, proved contract.VerifyOut, due time.Time) {
	l, moved := &p.learned, sent.Took+proved.ProveTook
	l.LinkUse, l.Granted = sent.LinkUse, 0
	if sent.Limited {
		l.Granted = sent.Granted
	}
	switch {
	case c.again || sent.Resumed:
		return
	case c.worstMode() != model.ModeDelta:
		if l.Rate <= 0 && sent.SentBytes >= smallTransfer && moved > 0 {
			l.Rate = seedGuard * float64(sent.SentBytes) / moved.Seconds()
		}
		return
	}
	rpo := p.rpo(ctx)
	cycle := cadence.Cycle{
		TakenAt: c.TakenAt, Written: -1, Dirty: c.DirtyBytes, Sent: sent.SentBytes, Moved: moved, Predicted: c.predicted,
		Fixed: max(workflow.Now(ctx).Sub(due)-moved, 0),
	}
	if c.WrittenBytes > 0 {
		cycle.Written = c.WrittenBytes
	}
	if last := p.lastCapture(); !last.IsZero() && c.TakenAt.After(last) {
		cycle.Interval = c.TakenAt.Sub(last)
	}
	for _, d := range sent.Disks {
		cycle.Changed += d.ChangedBytes
	}
	if p.st.Gear == contract.GearMerged && cycle.Interval > 0 { // there was no look before it
		l.Look(cadence.Counters{At: c.TakenAt, Written: cycle.Written, Dirty: c.DirtyBytes}, p.lastCapture(), rpo)
	}
	slower := moved.Seconds()*l.Rate > float64(sent.SentBytes)
	if sent.SentBytes < smallTransfer && moved < shortTransfer && slower {
		cycle.Fixed, cycle.Moved, cycle.Predicted = cycle.Fixed+moved, 0, 0
	}
	p.spend(ctx, sent.CPU, cycle.Interval)
	l.Done(cycle, rpo)
	l.Ladder = l.Ladder.Verified(p.putOff)
}

// predicted is how long the law thinks that moving this capture takes; what it takes then says how good that was.
func (p *protection) predicted(now time.Time, out contract.SnapshotOut) time.Duration {
	in := p.cadenceInput(now)
	in.Dirty, in.Since, in.Written = out.DirtyBytes, 0, -1
	if out.WrittenBytes > 0 {
		in.Written = out.WrittenBytes
	}
	if in.Oldest == nil {
		in.Oldest = &now
	}
	return in.Moves()
}

// demand is what the link reserves for this VM: as learned, and before that as it was admitted.
func (p *protection) demand() int64 {
	if d := p.learned.Demand(); d > 0 {
		return d
	}
	if a := p.st.Admission; a != nil {
		return a.Demand
	}
	return 0
}

// shared says that the primary's link is divided between VMs.
func (p *protection) shared() bool {
	o := p.st.Observed
	return p.learned.LinkUse > 0 || o != nil && o.Host != nil && o.Host.LinkBudget > 0
}

// weighSlack notes whether a cycle that starts now can still be verified in time, and up to which share of the RPO its
// start could have been put off.
func (p *protection) weighSlack(c model.Cadence, e cadence.Explanation) {
	slack, age, rpo := quantity(e, "slack"), quantity(e, "exposure"), quantity(e, "rpo")
	p.short = c.StartIn == 0 && slack < -noise.Seconds()
	p.putOff = 0
	if rpo > 0 {
		p.putOff = (age + slack) / rpo
	}
}

// giveWay climbs or descends by what the decision for this cycle showed. What comes after the second step is for those who
// divide the link.
func (p *protection) giveWay() {
	if l := &p.learned; l.Cycles >= knowsEnough {
		l.Ladder = l.Ladder.Decided(!p.short)
		l.Ladder.Step = min(l.Ladder.Step, cadence.Postpone)
	}
}

// degraded is what gives way now, in words; empty when nothing does.
func (p *protection) degraded() string {
	switch step := p.learned.Ladder.Step; {
	case step >= cadence.Postpone:
		return "compression is a level up, merges of old points wait"
	case step == cadence.Compress:
		return "compression is a level up"
	}
	return ""
}

// compression is a level up while not everything fits and the primary has the CPU for it.
func (p *protection) compression() string {
	asked := p.st.Policy.Compression
	if down := p.learned.CPU.Down; down > 0 && p.st.Policy.CPUShare > 0 {
		return lower(asked, down)
	}
	if p.learned.Ladder.Step < cadence.Compress || p.st.Observed != nil && p.st.Observed.HostCPU > cpuBudget {
		return asked
	}
	switch asked {
	case "", "auto", "fast":
		return "default"
	case "default":
		return "best"
	}
	return asked
}

// postponed says that merges of old points wait.
func (p *protection) postponed() bool { return p.learned.Ladder.Step >= cadence.Postpone }
