package cadence

import (
	"fmt"
	"time"

	"understudy/internal/model"
)

// terms are the quantities of the law, in seconds and bytes.
type terms struct {
	k                     Constants
	rpo, age, h, margin   float64
	b, g, gReserve, stale float64
	e                     Estimates
	rate, load, limit     float64
	d, slack              float64
	most, opens           float64 // dirty clusters, and bytes/s of new ones since early in the window
	tmin                  float64 // until the least distance is over
}

func (in Input) terms() terms {
	l, rpo := in.Learned, in.RPO
	k := l.constants()
	t := terms{
		k: k, rpo: rpo.Seconds(), age: in.Now.Sub(*in.Oldest).Seconds(), h: in.period().Seconds(), e: l.known(),
		g: max(l.G, 0), load: min(max(l.Load.Now(in.Now, k.memory(rpo)), 0), 1),
	}
	if !in.SampledAt.IsZero() {
		t.stale = max(in.Now.Sub(in.SampledAt).Seconds(), 0)
	}
	t.gReserve = max(t.g, k.Reserve*l.Growth.Now(in.Now, k.memory(rpo)))
	t.rate = l.Rate
	if t.rate <= 0 {
		t.rate = coldRate
	}
	if in.Share > 0 {
		t.rate = min(t.rate, in.Share)
	}
	t.rate = max(t.rate, 1)
	// Readiness for the one cycle in hundreds whose fixed cost is several times the usual is what the margin is for.
	worst := max(l.Worst.Now(in.Now, worstMemory), k.WorstFactor*t.e.Mean)
	t.margin = max(k.margin(t.rpo), worst-t.e.Fixed+k.WorstMargin)
	t.b, _ = t.e.changed(in.Written, in.Dirty, in.Since)
	if since := in.Now.Sub(in.LastCapture).Seconds(); in.Dirty > 0 && l.Early.Bytes > 0 && since > 1.3*l.Early.Age {
		t.most = float64(in.Dirty) + float64(max(in.Since, 0))
		t.opens = max(max(t.most-l.Early.Bytes, 0)/(since-l.Early.Age), l.Opens)
	}
	if k.Live {
		t.load = max(t.load, t.live(l.Pace))
	}
	t.limit = t.ageLimit()
	t.d = t.duration(t.at(t.pace()))
	t.slack = t.rpo - t.margin - t.age - t.d
	if !in.LastCapture.IsZero() {
		t.tmin = in.LastCapture.Sub(in.Now).Seconds() + k.TMin*t.rpo
	}
	return t
}

// pace is the growth that counts at the present age.
func (t terms) pace() float64 {
	if t.age >= t.k.ReserveFrom*t.rpo {
		return t.gReserve
	}
	return t.g
}

// at is what will have changed when a capture decided now takes its instant.
func (t terms) at(g float64) float64 { return t.b + g*(t.stale+t.h+reaction) }

// live is the load of the running window at RPO/2: of what is dirty already, or of the pace of the guest, whichever is
// more. A burst counts before a cycle has measured it. The pace is bounded by that of newly dirtied clusters and by what
// is left to fill in the dirty ones, else a guest that rewrites one region would look like a burst, start earlier, and
// look so even more.
func (t terms) live(pace float64) float64 {
	half := max(t.rpo/2, t.age)
	pace *= t.e.PerW
	if t.most > 0 {
		pace = min(pace, t.opens+max(t.most-t.b, 0)/half)
	}
	u := max(t.e.wire(t.b)/half, t.e.Wire*pace)
	return min(u/t.rate, 1)
}

// ageLimit leaves room for a cycle that takes as long as the load says and for a rise of it.
func (t terms) ageLimit() float64 {
	u := t.load
	return max(t.k.LeastLimit, 1-t.k.Slope*u-t.k.Curve*u*u) * t.rpo
}

// once is a cycle that starts now and does not fail.
func (t terms) once() float64 { return t.e.Fixed + t.moves(t.at(t.pace())) }

func (t terms) duration(changed float64) float64 {
	d := t.e.Fixed + t.moves(changed)
	return max(d, min(2*d, t.retry()))
}

// retry is the room up to which a whole second attempt is planned for. A cycle that is longer than half of it has room for a
// part of one only, and one that is longer than all of it has none: there the price would be a cycle in two.
func (t terms) retry() float64 { return 2 * t.k.RetryRoom * t.rpo }

func (t terms) moves(changed float64) float64 {
	return min(t.e.Guard*t.e.wire(changed)/t.rate, 86400)
}

// wait is the time until slack is used up while the guest writes on at its present pace.
func (t terms) wait() float64 {
	x := t.waitAt(t.g)
	if t.age+x <= t.k.ReserveFrom*t.rpo || t.gReserve <= t.g {
		return max(x, 0)
	}
	return max(min(x, max(t.waitAt(t.gReserve), t.k.ReserveFrom*t.rpo-t.age)), 0)
}

// waitAt solves slack(x) = 0: with the cycle alone, and with as much of a second attempt as is planned for.
func (t terms) waitAt(g float64) float64 {
	x := t.waitFor(g, 1)
	if t.k.RetryRoom <= 0 {
		return x
	}
	return max(min(x, max(t.waitFor(g, 2), t.rpo-t.margin-t.age-t.retry())), 0)
}

// waitFor solves it for so many attempts. The duration is piecewise linear in the bytes, with one bend at the size seen.
func (t terms) waitFor(g, attempts float64) float64 {
	b := t.at(g)
	slack := t.rpo - t.margin - t.age - attempts*(t.e.Fixed+t.moves(b))
	if slack <= 0 {
		return 0
	}
	per := attempts * t.e.Guard * g / t.rate
	low, high := per*t.e.Wire, per*max(t.e.Wire, unseenWire)
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
	return in.Learned.constants().Period(in.RPO)
}

// full is the law of references/adaptive.md, section 3: the latest safe start, never beyond the age limit.
func (in Input) full() model.Cadence {
	t := in.terms()
	x := t.wait()
	safe := x
	room := ""
	if t.d >= 1.5*t.once() {
		room = ", with room to fail once,"
	}
	c := in.start(span(x), model.BindingSlack, fmt.Sprintf("a cycle over %s takes up to %s%s and must be verified at an age of %s",
		bytesText(t.b), round(span(t.d)), room, round(span(t.rpo-t.margin))))
	if left := t.limit - t.age; left < x {
		x = max(left, 0)
		c = in.start(span(x), model.BindingLoad, fmt.Sprintf("the share of the link is busy %s of the time: not older than %s", percent(t.load), round(span(t.limit))))
	}
	if left := max(crowdLeast, crowdFrom-crowdSlope*in.Crowd)*t.rpo - t.age; in.Crowd > 0 && left < x {
		x = max(left, 0)
		c = in.start(span(x), model.BindingAllocator, fmt.Sprintf("the link of the host is %s used by all: it may start at an age of %s",
			percent(in.Crowd), round(span(left+t.age))))
	}
	if left := in.Phase.Seconds() - t.age; in.Phase > 0 && left < x {
		x = max(left, 0)
		c = in.start(span(x), model.BindingAllocator, fmt.Sprintf("the first capture after the seeding is made at an age of %s, this VM's own phase", round(in.Phase)))
	}
	if left := min(in.LastCapture.Add(in.Apart).Sub(in.Now).Seconds(), safe); in.Apart > 0 && left > x {
		x = left
		c = in.start(span(x), model.BindingCPU, fmt.Sprintf("captures are %s apart for the CPU budget, unless the target needs one sooner", round(in.Apart)))
	}
	if x < shortest {
		c = in.start(0, c.Binding, c.Reason)
		x = 0
	}
	if t.tmin > x {
		c = in.start(span(t.tmin), model.BindingTMin, fmt.Sprintf("captures are at least %s apart", round(span(t.k.TMin*t.rpo))))
	}
	return c
}

// Moves is the predicted time of replicate and verify for a start now, without guard: what a cycle is compared with.
func (in Input) Moves() time.Duration {
	if in.Oldest == nil {
		return 0
	}
	t := in.known().terms()
	return span(t.e.wire(t.b) / t.rate)
}

// Poll says when the size of the dirty clusters is asked for again: often when the slack is short, at once when the
// counters jumped, never sooner than the counters themselves are read. A start always rests on a size younger than that.
func (in Input) Poll() time.Duration {
	if in.Oldest == nil {
		return IdlePoll(in.RPO)
	}
	t := in.known().terms()
	if t.g*t.h > bigJump*max(t.b, jumpFloor) {
		return 0
	}
	return span(min(max(min(t.slack, t.limit-t.age)/6, t.h), t.rpo/10))
}

func span(s float64) time.Duration {
	return time.Duration(min(max(s, -9e8), 9e8) * float64(time.Second))
}
