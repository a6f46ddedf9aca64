package simulate

import (
	"math"
	"time"

	"understudy/internal/decide/cadence"
)

// Adaptive is the product's own decision code, fed with what an agent sees: counters each sampling period, the size of the
// dirty clusters when it is asked for, and what each cycle took.
type Adaptive struct {
	Constants *cadence.Constants // of a study; nil: the defaults

	learned cadence.Learned
	h       float64
	sample  window  // what the counters said at the last sample
	sampled float64 // its time, -1 before the first
	oldest  float64 // of the unreplicated writes as the agent knows it, +Inf none
	dirty   int64
	dirtyAt float64
	polled  int64 // bytes written when dirty was asked for
	pred    time.Duration
	prev    float64 // instant of the last verified capture
}

// Name is how results call it.
func (a *Adaptive) Name() string { return "adaptive" }

func (a *Adaptive) begin(r *run) {
	k := cadence.Defaults()
	if a.Constants != nil {
		k = *a.Constants
	}
	*a = Adaptive{Constants: a.Constants, h: math.Round(k.Period(r.s.RPO).Seconds()/Tick) * Tick, oldest: math.Inf(1), dirty: -1, dirtyAt: -1}
	a.learned.Constants = a.Constants
	a.learned.Rate = 0.7 * r.s.Link * r.l.mean() // as the seeding leaves it
}

func (a *Adaptive) done(r *run, c outcome) {
	if c.failed {
		a.forget(r, c.end, true)
		return
	}
	cycle := cadence.Cycle{
		TakenAt: at(c.instant), Interval: seconds(c.instant - a.prev), Written: c.w, Dirty: c.q, Changed: c.b, Sent: int64(c.sent),
		Fixed: seconds(c.fixed), Moved: seconds(c.moved), Predicted: a.pred,
	}
	a.learned.Done(cycle, r.s.RPO)
	a.prev = c.instant
	a.forget(r, c.end, false)
}

// forget drops what was known of the window before; the counters went on during the cycle.
func (a *Adaptive) forget(r *run, now float64, kept bool) {
	if !kept {
		a.oldest = math.Inf(1)
	}
	a.dirty, a.dirtyAt, a.polled = -1, -1, 0
	if early := math.Floor((r.lastInstant+r.s.RPO.Seconds()/8)/a.h) * a.h; !kept && early < now && early > r.lastInstant {
		a.poll(r, early) // sizes can be asked for while a backup job runs
	}
	a.look(r, math.Floor(now/a.h)*a.h)
}

// look reads the counters at a sampling instant.
func (a *Adaptive) look(r *run, now float64) {
	tick := int(now/Tick + 0.5)
	if tick < r.cur.from {
		return // the window is younger than the last sample
	}
	r.t.advance(&r.cur, tick)
	a.sample, a.sampled = r.cur, now
	a.learned.Look(cadence.Counters{At: at(now), Written: int64(r.cur.w) * Block, Dirty: -1}, at(float64(r.cur.from)*Tick), r.s.RPO)
	if r.cur.w > 0 && math.IsInf(a.oldest, 1) {
		first := float64(r.t.firstWrite(r.cur.from)) * Tick
		a.oldest = max(math.Floor(first/a.h)*a.h, float64(r.cur.from)*Tick) // one sample before it was seen
	}
}

func (a *Adaptive) poll(r *run, now float64) {
	r.t.advance(&r.cur, int(now/Tick+0.5))
	a.dirty, a.dirtyAt, a.polled = int64(r.cur.q)*Cluster, now, int64(r.cur.w)*Block
	r.res.Polls++
	a.learned.Look(cadence.Counters{At: at(now), Written: int64(r.cur.w) * Block, Dirty: a.dirty}, at(float64(r.cur.from)*Tick), r.s.RPO)
	a.sample, a.sampled = r.cur, now
}

func (a *Adaptive) next(r *run, now float64) float64 {
	for now < r.t.Seconds {
		if math.IsInf(a.oldest, 1) {
			o := r.origin(math.Inf(1))
			if math.IsInf(o, 1) {
				return o
			}
			now = max(now, (math.Floor(o/a.h+1e-9)+1)*a.h) // the first sample that sees the write
			a.look(r, now)
			continue
		}
		in := a.input(r, now)
		c := cadence.Decide(in)
		r.res.Looks++
		wait := c.StartIn.Seconds()
		if wait < Tick/2 {
			if now-a.dirtyAt > a.h {
				a.poll(r, now) // never start on an old size
				continue
			}
			a.pred = in.Moves()
			r.bound(string(c.Binding))
			return now
		}
		sample := (math.Floor(now/a.h+1e-6) + 1) * a.h
		next := min(now+wait, sample)
		if due := max(a.dirtyAt, float64(r.cur.from)*Tick) + in.Poll().Seconds(); due <= now+1e-6 && a.dirtyAt < now {
			a.poll(r, now)
			continue
		}
		now = next
		if now == sample {
			a.look(r, now)
		}
	}
	return math.Inf(1)
}

func (a *Adaptive) input(r *run, now float64) cadence.Input {
	oldest := at(a.oldest)
	in := cadence.Input{
		Now: at(now), RPO: r.s.RPO, Committed: true, Oldest: &oldest, Learned: &a.learned, Written: int64(a.sample.w) * Block, Dirty: a.dirty,
		SampledAt: at(a.sampled), Since: int64(a.sample.w)*Block - a.polled,
	}
	if r.lastInstant >= 0 {
		in.LastCapture = at(r.lastInstant)
	}
	if r.failures > 0 {
		t := at(r.retryAt)
		in.RetryAt = &t
	}
	return in
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
