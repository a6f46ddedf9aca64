package simulate

import (
	"math"
	"math/rand/v2"
	"time"

	"understudy/internal/decide/cadence"
)

// Setup is what a schedule has to live with. docs/POLICY.md says where the figures are from.
type Setup struct {
	RPO       time.Duration
	Link      float64    // bytes/s
	Cross     [2]float64 // share of the link that others take, least and most
	Seed      uint64
	Failures  time.Duration // mean time between failures of the link, of 3 s each, which end a replicate under way; 0: none
	Delay     float64       // s from a decision to the capture; 0: by RPO
	KeepTrail bool          // keep what a plot needs
}

const (
	captureTime = 0.12 // s
	endTime     = 0.15 // s: connection, job end, commit
	timeNoise   = 0.2  // sigma of the logarithm
	outlier     = 0.004
	outlierBy   = 6.0
	wireNoise   = 0.05
	readRate    = 150e6
	verifyRate  = 250e6
	wireFixed   = 4096 // bytes a cycle
	outage      = 3.0  // s, of the link when it fails
)

// delay of the control plane: below 10 s the decision lives in the agent.
func (s Setup) delay() float64 {
	switch {
	case s.Delay > 0:
		return s.Delay
	case s.RPO < 10*time.Second:
		return 0.005
	}
	return 0.1
}

// Planner is a schedule. next is the time of the next start, at or after now, or +Inf when there is none before the end.
type Planner interface {
	Name() string
	begin(*run)
	next(r *run, now float64) float64
	done(r *run, c outcome)
}

// outcome is one finished cycle.
type outcome struct {
	start, instant, end float64 // decision, capture, verified or failed
	w, q, b             int64   // bytes
	sent                float64
	fixed, moved        float64
	failed              bool
}

// run is one schedule over one trace.
type run struct {
	t    *Trace
	s    Setup
	l    *link
	rng  *rand.Rand
	fail []float64 // times of failures, ascending

	cur         window  // since the last committed capture
	lastInstant float64 // of any capture, -1 before the first
	failures    int     // in a row
	retryAt     float64
	meter       meter
	res         Result
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(s float64) time.Time { return epoch.Add(time.Duration(s * float64(time.Second))) }

// Bed is a trace with the traffic of a link: what many schedules are run on.
type Bed struct {
	trace *Trace
	setup Setup
	link  *link
	fail  []float64
}

// NewBed prepares a trace for a setup.
func NewBed(t *Trace, s Setup) *Bed {
	b := &Bed{trace: t, setup: s, link: newLink(s.Link, s.Cross[0], s.Cross[1], t.Seconds, s.Seed)}
	b.fail = failures(t.Seconds, s)
	return b
}

func failures(length float64, s Setup) []float64 {
	if s.Failures <= 0 {
		return nil
	}
	rng := rand.New(rand.NewPCG(s.Seed, 0xfa11))
	var out []float64
	for x := rng.ExpFloat64() * s.Failures.Seconds(); x < length; x += rng.ExpFloat64()*s.Failures.Seconds() + Tick {
		out = append(out, x)
	}
	return out
}

// Failing is the same bed with failures of the link.
func (b *Bed) Failing(every time.Duration) *Bed {
	n := *b
	n.setup.Failures = every
	n.fail = failures(b.trace.Seconds, n.setup)
	return &n
}

// With is the same bed with another capacity of the link.
func (b *Bed) With(capacity float64) *Bed {
	n := *b
	n.setup.Link, n.link = capacity, b.link.with(capacity)
	return &n
}

// Run simulates one schedule.
func (b *Bed) Run(p Planner) Result {
	r := &run{t: b.trace, s: b.setup, l: b.link, fail: b.fail, rng: rand.New(rand.NewPCG(b.setup.Seed, 0xc0de)), lastInstant: -1}
	r.meter = newMeter(b.setup.RPO.Seconds())
	r.res = Result{Trace: b.trace.Name, Planner: p.Name(), Seconds: b.trace.Seconds, RPO: b.setup.RPO.Seconds(), Link: b.setup.Link}
	p.begin(r)
	for now := 0.0; now < r.t.Seconds; {
		start := p.next(r, now)
		if start >= r.t.Seconds {
			break
		}
		c := r.cycle(start)
		p.done(r, c)
		now = c.end
	}
	r.finish()
	return r.res
}

func (r *run) noisy(x float64) float64 {
	x *= math.Exp(timeNoise * r.rng.NormFloat64())
	if r.rng.Float64() < outlier {
		x *= outlierBy
	}
	return x
}

// cycle runs snapshot, replicate and verify. A capture is one instant: what is written after it belongs to the next.
func (r *run) cycle(start float64) outcome {
	tick := min(int(math.Ceil((start+r.s.delay())/Tick)), r.t.ticks())
	c := outcome{start: start, instant: float64(tick) * Tick}
	r.t.advance(&r.cur, tick)
	c.w, c.b, c.q = int64(r.cur.w)*Block, int64(r.cur.b)*Block, int64(r.cur.q)*Cluster
	capture, end := r.noisy(captureTime), r.noisy(endTime)
	c.sent = float64(c.b)*r.t.Ratio*math.Exp(wireNoise*r.rng.NormFloat64()) + wireFixed
	from := c.instant + capture
	c.moved = max(r.l.end(from, c.sent)-from, float64(c.q)/readRate)
	r.res.Cycles++
	if f, failed := r.failureIn(from, from+c.moved); failed {
		c.failed, c.end = true, f
		r.res.Failed++
		r.res.Bytes += c.sent * (f - from) / c.moved
		r.failures++
		r.retryAt = f + cadence.Backoff(r.failures, r.s.RPO).Seconds()
		r.lastInstant = c.instant
		r.work(c)
		return c
	}
	c.moved += float64(c.b) / verifyRate
	c.fixed = c.instant - start + capture + end
	c.end = from + c.moved + end
	if c.end >= r.t.Seconds {
		return c // it ends with the trace, unverified
	}
	r.res.Bytes += c.sent
	r.res.Dirty4K += float64(c.b)
	r.res.Dirty64K += float64(c.q)
	r.work(c)
	r.meter.verified(r.origin(c.end), c.end, c)
	if r.s.KeepTrail {
		r.res.Trail = append(r.res.Trail, Step{Instant: c.instant, Verified: c.end, Oldest: r.origin(c.end), Sent: c.sent, Changed: float64(c.b)})
	}
	r.failures, r.retryAt, r.lastInstant = 0, 0, c.instant
	r.cur = window{from: tick, upTo: tick}
	return c
}

func (r *run) failureIn(from, to float64) (float64, bool) {
	for _, f := range r.fail {
		if f+outage > from && f < to {
			return max(f, from), true
		}
	}
	return 0, false
}

// origin is the time of the oldest write not in a committed capture, or +Inf when there is none before the given time.
func (r *run) origin(before float64) float64 {
	if r.cur.from >= r.t.ticks() {
		return math.Inf(1)
	}
	if o := float64(r.t.firstWrite(r.cur.from)) * Tick; o < min(before, r.t.Seconds) {
		return o
	}
	return math.Inf(1)
}

func (r *run) finish() {
	r.meter.verified(r.origin(r.t.Seconds), r.t.Seconds, outcome{})
	r.meter.fill(&r.res)
}

// work is the CPU time of a cycle: control plane by gear, then reading and hashing, compressing, and proving.
func (r *run) work(c outcome) {
	interval := c.instant - r.res.lastWork
	r.res.lastWork = c.instant
	gear := 0.050
	switch {
	case interval < 10:
		gear = 0.002
	case interval < 30:
		gear = 0.025
	}
	r.res.CPU += gear + 0.040 + float64(c.q)/800e6 + float64(c.b)/250e6 + float64(c.b)/800e6
}
