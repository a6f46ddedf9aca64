package cadence

import (
	"fmt"
	"time"

	"understudy/internal/model"
)

// Constants of the law. docs/POLICY.md says what each is for and what another value does.
const (
	seedGuard   = 0.7 // of the throughput of the seeding
	coldFixed   = 1.0 // s, least fixed cost while few cycles were seen
	unseenWire  = 0.6 // bytes sent per byte changed beyond the sizes seen, at least
	loadSlope   = 0.8 // of the age limit over the load
	leastLimit  = 0.25
	reserveFrom = 0.25 // of RPO: from this age on the reserve counts
	reserve     = 0.5  // of the largest growth remembered
	reaction    = 0.3  // s from the decision to the instant of the capture
	coldRate    = 8 << 20
	shortest    = 0.05 // s: no timer is finer
	bigJump     = 0.25 // of the bytes known: the counter jumped, ask for the size at once
	jumpFloor   = 1 << 20
	crowdFrom   = 0.85 // allocator: eligible from max(0.5, 0.85 - 0.6 U) of RPO
	crowdSlope  = 0.6
	crowdLeast  = 0.5
)

// Period is how often the write counters are read: h.
func Period(rpo time.Duration) time.Duration {
	return min(max(rpo/40, 250*time.Millisecond), 4*time.Second)
}

// Margin is kept between the planned verification and the target.
func Margin(rpo time.Duration) time.Duration { return max(500*time.Millisecond, scale(rpo, 0.05)) }

// terms are the quantities of the law, in seconds and bytes.
type terms struct {
	rpo, age, h, margin   float64
	b, g, gReserve, stale float64
	e                     Estimates
	rate, load, limit     float64
	d, slack              float64
	tmin                  float64 // until the least distance is over
}

func (in Input) terms() terms {
	l, rpo := in.Learned, in.RPO
	t := terms{
		rpo: rpo.Seconds(), age: in.Now.Sub(*in.Oldest).Seconds(), h: in.period().Seconds(), margin: Margin(rpo).Seconds(), e: l.known(),
		g: max(l.G, 0), load: min(max(l.Load.Now(in.Now, Memory(rpo)), 0), 1),
	}
	if !in.SampledAt.IsZero() {
		t.stale = max(in.Now.Sub(in.SampledAt).Seconds(), 0)
	}
	t.gReserve = max(t.g, reserve*l.Growth.Now(in.Now, Memory(rpo)))
	t.rate = l.Rate
	if t.rate <= 0 {
		t.rate = coldRate
	}
	if in.Share > 0 {
		t.rate = min(t.rate, in.Share)
	}
	t.rate = max(t.rate, 1)
	t.b, _ = t.e.changed(in.Written, in.Dirty, in.Since)
	t.limit = max(leastLimit, 1-loadSlope*t.load) * t.rpo
	g := t.g
	if t.age >= reserveFrom*t.rpo {
		g = t.gReserve
	}
	t.d = t.duration(t.b + g*(t.stale+t.h+reaction))
	t.slack = t.rpo - t.margin - t.age - t.d
	if !in.LastCapture.IsZero() {
		t.tmin = in.LastCapture.Sub(in.Now).Seconds() + tminShare*t.rpo
	}
	return t
}

func (t terms) duration(changed float64) float64 { return t.e.Fixed + t.moves(changed) }

func (t terms) moves(changed float64) float64 {
	return min(t.e.Guard*t.e.wire(changed)/t.rate, 86400)
}

// wait is the time until slack is used up while the guest writes on at its present pace.
func (t terms) wait() float64 {
	x := t.waitAt(t.g)
	if t.age+x <= reserveFrom*t.rpo || t.gReserve <= t.g {
		return max(x, 0)
	}
	return max(min(x, max(t.waitAt(t.gReserve), reserveFrom*t.rpo-t.age)), 0)
}

// waitAt solves slack(x) = 0. The duration is piecewise linear in the bytes, with one bend at the size seen.
func (t terms) waitAt(g float64) float64 {
	b := t.b + g*(t.stale+t.h+reaction)
	slack := t.rpo - t.margin - t.age - t.duration(b)
	if slack <= 0 {
		return 0
	}
	low, high := t.e.Guard*t.e.Wire*g/t.rate, t.e.Guard*max(t.e.Wire, unseenWire)*g/t.rate
	if room := t.e.Size - b; room > 0 && g > 0 {
		bend := room / g
		if x := slack / (1 + low); x <= bend {
			return x
		}
		return bend + (slack-bend*(1+low))/(1+high)
	}
	return slack / (1 + high)
}

func (in Input) period() time.Duration {
	if in.Period > 0 {
		return in.Period
	}
	return Period(in.RPO)
}

// full is the law of references/adaptive.md, section 3: the latest safe start, never beyond the age limit.
func (in Input) full() (model.Cadence, terms) {
	t := in.terms()
	x := t.wait()
	c := in.start(span(x), model.BindingSlack, fmt.Sprintf("a cycle over %s takes up to %s and must be verified at an age of %s",
		bytesText(t.b), round(span(t.d)), round(span(t.rpo-t.margin))))
	if left := t.limit - t.age; left < x {
		x = max(left, 0)
		c = in.start(span(x), model.BindingLoad, fmt.Sprintf("the share of the link is busy %s of the time: not older than %s", percent(t.load), round(span(t.limit))))
	}
	if left := max(crowdLeast, crowdFrom-crowdSlope*in.Crowd)*t.rpo - t.age; in.Crowd > 0 && left < x {
		x = max(left, 0)
		c = in.start(span(x), model.BindingAllocator, fmt.Sprintf("the link of the host is %s used by all: it may start at an age of %s",
			percent(in.Crowd), round(span(left+t.age))))
	}
	if x < shortest {
		c = in.start(0, c.Binding, c.Reason)
		x = 0
	}
	if t.tmin > x {
		c = in.start(span(t.tmin), model.BindingTMin, fmt.Sprintf("captures are at least %s apart", round(scale(in.RPO, tminShare))))
	}
	return c, t
}

// Moves is the predicted time of replicate and verify for a start now, without guard: what a cycle is compared with.
func (in Input) Moves() time.Duration {
	if in.Learned == nil || in.Oldest == nil {
		return 0
	}
	t := in.terms()
	return span(t.e.wire(t.b) / t.rate)
}

// Poll says when the size of the dirty clusters is asked for again: often when the slack is short, at once when the
// counters jumped, never sooner than the counters themselves are read. A start always rests on a size younger than that.
func (in Input) Poll() time.Duration {
	if in.Learned == nil || in.Oldest == nil {
		return IdlePoll(in.RPO)
	}
	t := in.terms()
	if t.g*t.h > bigJump*max(t.b, jumpFloor) {
		return 0
	}
	return span(min(max(min(t.slack, t.limit-t.age)/6, t.h), t.rpo/10))
}

func span(s float64) time.Duration {
	return time.Duration(min(max(s, -9e8), 9e8) * float64(time.Second))
}
