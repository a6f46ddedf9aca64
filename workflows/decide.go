package workflows

import (
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/decide/allocate"
	"understudy/internal/decide/cadence"
	"understudy/internal/decide/calendar"
	"understudy/internal/model"
)

const (
	maxDecisions = 20
	maxLooks     = 3                      // before one start, beside those that signals cause
	atOnce       = 500 * time.Millisecond // a shorter timer fires late: start instead
	lookShare    = 20                     // a plan whose uncertain part is below RPO/20 is not looked at again
)

// decided is a decision as the history has it.
type decided struct {
	model.Cadence
	From   string        `json:"from,omitempty"` // the inputs, in words
	Unsure time.Duration `json:"unsure_ns"`      // of the planned cycle: what depends on the bytes
	Gear   string        `json:"gear,omitempty"` // of a cycle that begins with it
}

// decide asks the law when the next cycle starts. The decision goes through a side effect, so that it is in the history
// with its reason, the formula may be improved without breaking running protections, and floating point may differ
// between the machines that replay.
func (p *protection) decide(ctx workflow.Context) model.Cadence {
	in := p.cadenceInput(workflow.Now(ctx))
	why := cadence.Explain(in)
	p.shift(why.Cadence)
	now := decided{why.Cadence, inWords(quantities(why)), seconds(quantity(why, "transfer")), p.gear()}
	var d decided // nothing of now may be left in it: an old decision has no gear
	if err := workflow.SideEffect(ctx, func(workflow.Context) any { return now }).Get(&d); err != nil {
		p.log.Error("a recorded decision cannot be read", "error", err)
		d = now
	}
	c := d.Cadence
	p.st.Gear = d.Gear
	p.short = false
	if lawful(c.Binding) {
		if c.Binding != model.BindingTMin && c.StartIn < atOnce {
			c.StartIn, c.NextAt = 0, in.Now
		}
		p.weighSlack(c, why)
	}
	c = p.untilTheNextPolicy(ctx, c)
	p.st.Cadence, p.unsure = c, d.Unsure
	p.remember(in, why, c)
	return c
}

// lawful says that the law itself decided, and not a person, a failure or an idle guest.
func lawful(b model.Binding) bool {
	switch b {
	case model.BindingSlack, model.BindingLoad, model.BindingTMin, model.BindingAllocator, model.BindingCPU:
		return true
	case model.BindingIdle, model.BindingSeed, model.BindingRequest, model.BindingRetry, model.BindingPaused, model.BindingWaiting, model.BindingRunning:
	}
	return false
}

// untilTheNextPolicy ends a wait when a window opens or closes, with a new look.
func (p *protection) untilTheNextPolicy(ctx workflow.Context, c model.Cadence) model.Cadence {
	if wait := p.noLonger(ctx, c.StartIn); wait < c.StartIn {
		c.NextAt, c.StartIn, c.Skip = c.NextAt.Add(wait-c.StartIn), wait, true
		c.Reason += "; the policy changes before"
	}
	return c
}

func (p *protection) cadenceInput(now time.Time) cadence.Input {
	st, l := p.st, &p.learned
	eff, _ := calendar.Effective(st.Policy, now)
	in := cadence.Input{
		Now: now, RPO: eff.RPO, Committed: !p.parent().IsZero(), LastCapture: p.lastCapture(), Oldest: st.Unreplicated, RetryAt: st.RetryAt,
		Requested: p.wanted > p.started, Paused: st.Paused != nil, Hindered: p.hindered(),
		Learned: &l.Learned, Share: l.share(eff.MaxBandwidth), Crowd: l.LinkUse, Period: cadence.Period(eff.RPO),
		SampledAt: p.lastCapture(), Dirty: -1, // nothing was written at the instant of the capture
	}
	in.Apart = p.apart()
	if st.Totals.Cycles == 1 && p.shared() {
		in.Phase = allocate.FirstPhase(p.vm.UUID, eff.RPO)
	}
	if st.Unreplicated != nil {
		in.RPO = calendar.Allowance(st.Policy, *st.Unreplicated, now)
	}
	o := st.Observed
	if o == nil || !o.At.After(in.LastCapture) {
		return in
	}
	in.SampledAt, in.Written = o.At, o.WrittenBytes
	if d := seconds(o.SamplePeriod); d > in.Period { // a host with many VMs is sampled more slowly
		in.Period = min(d, eff.RPO/8)
	}
	if l.Size.At.After(in.LastCapture) {
		in.Dirty, in.Since = l.Size.Dirty, max(o.WrittenBytes-l.Size.Written, 0)
	}
	if o.OldestWrite == nil && o.WriteReqs > 0 && in.Dirty >= 0 {
		in.Written = -1 // an agent that began again did not see all
	}
	return in
}

// worthALook: the guest may have written less than planned, and a later start saves cycles. Where bytes are a small part
// of a cycle's time there is nothing to gain.
func (p *protection) worthALook(ctx workflow.Context, c model.Cadence) bool {
	o, rpo := p.st.Observed, p.rpo(ctx)
	if !lawful(c.Binding) || c.Binding == model.BindingTMin || p.looks >= maxLooks {
		return false
	}
	if c.Binding == model.BindingSlack && p.unsure < rpo/lookShare {
		return false
	}
	if o != nil && o.At.After(p.lastCapture()) && workflow.Now(ctx).Sub(o.At) < 2*cadence.Period(rpo) {
		return false
	}
	p.looks++
	return true
}

func quantity(e cadence.Explanation, name string) float64 {
	for _, q := range e.Inputs {
		if q.Name == name {
			return q.Value
		}
	}
	return 0
}

func seconds(s float64) time.Duration {
	return time.Duration(min(max(s, 0), 86400) * float64(time.Second))
}

// remember keeps the last decisions; one with the same result as the one before takes its place, so that an hour without
// writes does not push all others out.
func (p *protection) remember(in cadence.Input, e cadence.Explanation, c model.Cadence) {
	_, window := calendar.Effective(p.st.Policy, in.Now)
	d := contract.Decision{At: in.Now, Cadence: c, RPO: in.RPO, Window: window, Inputs: quantities(e), Change: e.Change, Gear: p.st.Gear, Times: 1}
	list := p.st.Decisions
	if n := len(list); n > 0 {
		if last := list[n-1]; !lawful(c.Binding) && last.Cadence.Binding == c.Binding && last.Cadence.Reason == c.Reason && last.Window == window {
			d.Times += last.Times
			list = list[:n-1]
		}
	}
	list = append(list, d)
	p.st.Decisions = append([]contract.Decision(nil), list[max(0, len(list)-maxDecisions):]...)
}

func quantities(e cadence.Explanation) []contract.Quantity {
	var out []contract.Quantity
	for _, q := range e.Inputs {
		out = append(out, contract.Quantity(q))
	}
	return out
}

func inWords(inputs []contract.Quantity) string {
	var words []string
	for _, q := range inputs {
		if text := q.String(); text != "" {
			words = append(words, text)
		}
	}
	return strings.Join(words, ", ")
}

func (p *protection) explain() contract.ExplainOut {
	out := contract.ExplainOut{VM: p.vm, Policy: p.st.Policy, Gear: p.st.Gear, Degraded: p.degraded(), Cycles: p.learned.Cycles, Decisions: p.st.Decisions}
	if o := p.st.Observed; o != nil {
		out.Memory = o.Memory
	}
	if out.Decisions == nil {
		out.Decisions = []contract.Decision{}
	}
	return out
}
