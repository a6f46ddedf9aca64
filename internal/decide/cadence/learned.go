package cadence

import (
	"math"
	"time"
)

// Sizes of the rings. With them a Learned is below 12 kB of JSON, so that a workflow can carry it through its whole life.
const (
	keepFixed  = 100
	keepMiss   = 60
	keepRatios = 40
	fewRatios  = 4

	measurable = 0.3 // s; a shorter transfer says nothing about the error of a prediction
	steady     = 0.4 // s; a shorter transfer may only raise the throughput
)

// Learned is what the past of one protection says about its next cycle: plain data, bounded in size, changed only by Look
// and Done. The zero value knows nothing, and the law is careful then.
type Learned struct {
	Fixed   []float64 `json:"fixed_s,omitempty"`     // cost that does not grow with the bytes, newest last
	Miss    []float64 `json:"miss,omitempty"`        // measured / predicted transfer time
	Wire    []float64 `json:"wire,omitempty"`        // bytes sent / bytes changed
	PerQ    []float64 `json:"per_dirty,omitempty"`   // bytes changed / bytes in dirty clusters
	PerW    []float64 `json:"per_written,omitempty"` // bytes changed / bytes written
	Dirty   []float64 `json:"dirty,omitempty"`       // bytes in dirty clusters
	Written []float64 `json:"written,omitempty"`     // bytes by the write counters
	Changed []float64 `json:"changed,omitempty"`     // bytes
	Half    []float64 `json:"half,omitempty"`        // bytes on the wire of a capture each RPO/2, one for each cycle

	Rate float64 `json:"rate"` // bytes/s of the granted share; 0 unknown
	Load Peak    `json:"load"` // share of the time the share of the link is busy with our transfers
	// LoadRate is the throughput at which Load was measured, bytes/s.
	LoadRate float64 `json:"load_rate,omitempty"`
	Growth   Peak    `json:"growth"` // largest bytes/s written
	Worst    Peak    `json:"worst"`  // largest fixed cost, s
	Cycles   int     `json:"cycles"`

	G      float64   `json:"g"`    // bytes/s written in the last sample
	Pace   float64   `json:"pace"` // the same, smoothed over RPO/10
	SeenAt time.Time `json:"seen_at,omitzero"`
	SeenW  int64     `json:"seen_w"`
	Early  Point     `json:"early"` // dirty clusters early in the running window: how D(T) bends

	// Constants are those of a study; nil means the defaults.
	Constants *Constants `json:"-"`

	Last  Point   `json:"last"`  // newest look at the dirty clusters of the running window
	Opens float64 `json:"opens"` // bytes/s of new dirty clusters between the last two looks

	Est Estimates `json:"est"` // of the rings above, kept so that a decision costs no sorting
}

// Point is one point of the curve of dirty bytes over age.
type Point struct {
	Age   float64 `json:"age_s"`
	Bytes float64 `json:"bytes"`
}

// Peak remembers the largest value seen, halving with time.
type Peak struct {
	Value float64   `json:"value"`
	At    time.Time `json:"at,omitzero"`
}

// Now is what is left of the peak.
func (p Peak) Now(now time.Time, half time.Duration) float64 {
	age := now.Sub(p.At)
	if p.Value == 0 || half <= 0 || age <= 0 {
		return p.Value
	}
	return p.Value * math.Exp2(-age.Seconds()/half.Seconds())
}

func (p Peak) raise(v float64, now time.Time, half time.Duration) Peak {
	if v >= p.Now(now, half) && finite(v) {
		return Peak{v, now}
	}
	return p
}

// Estimates are the quantiles of the rings.
type Estimates struct {
	Fixed   float64 `json:"fixed_s"`
	Guard   float64 `json:"guard"` // f
	Wire    float64 `json:"wire"`  // c
	Size    float64 `json:"size"`  // s: up to it Wire holds
	PerQ    float64 `json:"per_dirty"`
	SizeQ   float64 `json:"size_dirty"`
	PerW    float64 `json:"per_written"`
	SizeW   float64 `json:"size_written"`
	Mean    float64 `json:"mean_s"`  // of the fixed cost
	Learned bool    `json:"learned"` // the ratios were seen often enough
}

// Counters is one look at the write counters.
type Counters struct {
	At      time.Time
	Written int64 // since the capture; negative when unknown (a reset: QEMU was restarted)
	Dirty   int64 // bytes in dirty clusters since the capture; negative when not asked
}

// Look learns from the counters. The growth is over the time since the last look or since the capture, whichever is later:
// divided by one sampling period instead, a pause in sampling (a transfer, a suspended host) looks like a storm.
func (l *Learned) Look(c Counters, capture time.Time, rpo time.Duration) {
	k := l.constants()
	since, before := l.SeenAt, l.SeenW
	if since.Before(capture) {
		since, before = capture, 0
	}
	if c.Written < 0 {
		l.G, l.Pace, l.SeenAt, l.SeenW = 0, 0, c.At, 0
		return
	}
	if gap := c.At.Sub(since).Seconds(); gap > 0 {
		l.G = float64(max(c.Written-before, 0)) / gap
		l.Growth = l.Growth.raise(l.G, c.At, k.memory(rpo))
		keepOld := math.Exp(-gap / (k.PaceShare * rpo.Seconds()))
		l.Pace = keepOld*l.Pace + (1-keepOld)*l.G
		l.SeenAt, l.SeenW = c.At, c.Written
	}
	age := c.At.Sub(capture).Seconds()
	if c.Dirty > 0 && age-l.Last.Age > shortest && age > 0 {
		l.Opens = max(float64(c.Dirty)-l.Last.Bytes, 0) / (age - l.Last.Age)
		l.Last = Point{age, float64(c.Dirty)}
	}
	if c.Dirty > 0 && age > 0 && (age <= rpo.Seconds()/8 || l.Early.Bytes == 0) {
		l.Early = Point{age, float64(c.Dirty)}
	}
}

// Cycle is one verified cycle.
type Cycle struct {
	TakenAt   time.Time     // the instant of the capture
	Interval  time.Duration // to the capture before
	Written   int64         // by the counters; negative unknown
	Dirty     int64         // in dirty clusters; negative unknown
	Changed   int64         // bytes of changed 4 KiB blocks
	Sent      int64         // bytes on the wire
	Fixed     time.Duration // decision, capture, connection, commit: what does not grow with the bytes
	Moved     time.Duration // replicate and verify: what grows with them
	Predicted time.Duration // of Moved, by Moves before the start; 0 unknown
}

// Done learns from a verified cycle.
func (l *Learned) Done(c Cycle, rpo time.Duration) {
	k := l.constants()
	l.Cycles++
	keep(&l.Fixed, keepFixed, c.Fixed.Seconds())
	moved, changed := c.Moved.Seconds(), float64(max(c.Changed, 0))
	if c.Predicted > 0 && moved > measurable {
		keep(&l.Miss, keepMiss, moved/c.Predicted.Seconds())
	}
	if c.Changed > 0 {
		keep(&l.Wire, keepRatios, float64(c.Sent)/changed)
		keep(&l.Changed, keepRatios, changed)
	}
	if c.Dirty > 0 {
		keep(&l.PerQ, keepRatios, min(changed/float64(c.Dirty), 1))
		keep(&l.Dirty, keepRatios, float64(c.Dirty))
	}
	if c.Written > 0 {
		keep(&l.PerW, keepRatios, min(changed/float64(c.Written), 1))
		keep(&l.Written, keepRatios, float64(c.Written))
	}
	if h, ok := l.half(c, rpo.Seconds()); ok {
		keep(&l.Half, keepRatios, h)
	}
	l.throughput(float64(c.Sent), moved)
	l.healed()
	if load := l.Load.raise(l.load(c, rpo.Seconds()), c.TakenAt, k.memory(rpo)); load != l.Load {
		l.Load, l.LoadRate = load, l.Rate
	}
	l.Worst = l.Worst.raise(c.Fixed.Seconds(), c.TakenAt, worstMemory)
	l.Early, l.Last, l.Opens = Point{}, Point{}, 0
	l.Est = l.estimates()
}

// healed discounts a load that was measured while the link gave far less than now (a limit that was lifted, a transfer that
// starved for its grant): the same bytes take so much less of the link. A swing by other traffic stays below the factor, and
// its load is remembered as it was.
func (l *Learned) healed() {
	const factor = 2
	if l.LoadRate > 0 && l.Rate > factor*l.LoadRate {
		l.Load.Value *= factor * l.LoadRate / l.Rate
		l.LoadRate = l.Rate / factor
	}
}

func (l *Learned) throughput(sent, moved float64) {
	if sent <= 0 || moved <= 0 {
		return
	}
	switch r := sent / moved; {
	case l.Rate <= 0:
		l.Rate = seedGuard * r
	case moved >= steady:
		l.Rate = 0.7*l.Rate + 0.3*r
	case r > l.Rate:
		l.Rate = r
	}
}

// load is the share of the time that our transfers would take at an interval of RPO/2, the interval at which the link
// carries most. At a shorter interval D/T is larger and would hold itself up (shorter, larger load, shorter), so D is
// carried to RPO/2. Two upper bounds hold for that: D grows at most linearly, and it never exceeds the dirty clusters, which
// grow along the bend that this very window showed (between a look in its first quarter of RPO and its end).
func (l *Learned) load(c Cycle, rpo float64) float64 {
	t, b := c.Interval.Seconds(), float64(c.Changed)
	if t <= 0 || b <= 0 || l.Rate <= 0 {
		return 0
	}
	half := max(rpo/2, t)
	most := b * half / t
	if m := l.Early; c.Dirty > 0 && m.Bytes > 0 && m.Age < t/1.3 {
		bend := math.Log(float64(c.Dirty)/m.Bytes) / math.Log(t/m.Age) // 1 appends, 0 rewrites
		most = min(most, float64(c.Dirty)*math.Pow(half/t, min(max(bend, 0), 1)))
	}
	rate := l.Rate // guarded while only the seeding was measured; what this cycle achieved is known
	if moved := c.Moved.Seconds(); moved > 0 && l.Cycles < fewSamples {
		rate = max(rate, float64(c.Sent)/moved)
	}
	return min(max(most, b)*float64(c.Sent)/b/(half*rate), 1)
}

// half is what this cycle says of D(RPO/2), on the wire: carried there along the bend of its window. Where no bend was seen D
// is taken to grow in full towards RPO/2, and not to shrink from beyond it.
func (l *Learned) half(c Cycle, rpo float64) (bytes float64, known bool) {
	t, b := c.Interval.Seconds(), float64(c.Sent)
	if t <= 0 || rpo <= 0 || b < 0 {
		return 0, false
	}
	bend := 1.0
	if t > rpo/2 {
		bend = 0
	}
	if m := l.Early; c.Dirty > 0 && m.Bytes > 0 && m.Age < t/1.3 {
		bend = min(max(math.Log(float64(c.Dirty)/m.Bytes)/math.Log(t/m.Age), 0), 1)
	}
	return b * math.Pow(rpo/2/t, bend), true
}

// Demand is what the VM sends when it is captured each RPO/2, in bytes on the wire: the median of the recent cycles, so that a
// burst reserves nothing until it is no burst any more. 0 while too few cycles were seen.
func (l *Learned) Demand() int64 {
	if len(l.Half) < fewSamples {
		return 0
	}
	return int64(math.Ceil(quantile(l.Half, 0.5)))
}

func (l *Learned) estimates() Estimates {
	k := l.constants()
	e := Estimates{Fixed: coldFixed, Guard: coldGuard, Wire: 1, PerQ: 1, PerW: 1, Mean: mean(l.Fixed)}
	if n := len(l.Fixed); n >= fewSamples {
		e.Fixed = quantile(l.Fixed, k.FixedQ)
	} else if n > 0 {
		e.Fixed = max(coldFixed, 2*mean(l.Fixed))
	}
	if len(l.Miss) >= fewSamples {
		e.Guard = max(1, quantile(l.Miss, k.GuardQ))
	}
	if len(l.Wire) >= fewRatios {
		e.Wire, e.Size = quantile(l.Wire, k.RatioQ), quantile(l.Changed, k.RatioQ)
	}
	if l.Cycles >= fewRatios {
		e.Learned = true
		e.PerQ, e.SizeQ = quantile(l.PerQ, k.RatioQ), quantile(l.Dirty, k.RatioQ)
		e.PerW, e.SizeW = quantile(l.PerW, k.RatioQ), quantile(l.Written, k.RatioQ)
	}
	return e
}

func (l *Learned) constants() Constants {
	if l.Constants != nil {
		return *l.Constants
	}
	return Defaults()
}

// Estimates of a Learned that never saw a cycle are the careful first guesses.
func (l *Learned) known() Estimates {
	if l.Cycles == 0 {
		return (&Learned{}).estimates()
	}
	return l.Est
}

func keep(ring *[]float64, n int, v float64) {
	if !finite(v) {
		return
	}
	r := append(*ring, compact(v))
	*ring = r[max(0, len(r)-n):]
	if cap(*ring) > 4*n {
		*ring = append(make([]float64, 0, 2*n), *ring...)
	}
}

// compact keeps four digits, so that the JSON stays small.
func compact(v float64) float64 {
	if v == 0 {
		return 0
	}
	p := math.Pow(10, 3-math.Floor(math.Log10(math.Abs(v))))
	if !finite(p) || p == 0 {
		return 0
	}
	return math.Round(v*p) / p
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
