package simulate

import (
	"fmt"
	"math"
	"time"
)

// Fixed starts a cycle each T, or as soon as the one before is done. With Skip a cycle for which nothing was written is left out.
type Fixed struct {
	T    time.Duration
	Skip bool
	last float64
}

// Name is how results call it.
func (f *Fixed) Name() string {
	if f.Skip {
		return fmt.Sprintf("fixed:%s+skip", f.T)
	}
	return fmt.Sprintf("fixed:%s", f.T)
}

func (f *Fixed) begin(*run)         { f.last = 0 }
func (f *Fixed) done(*run, outcome) {}

func (f *Fixed) next(r *run, now float64) float64 {
	t := f.T.Seconds()
	start := max(f.last+t, now)
	if r.failures > 0 {
		start = max(r.retryAt, now)
	}
	if f.Skip {
		o := r.origin(math.Inf(1))
		if math.IsInf(o, 1) {
			return math.Inf(1)
		}
		if o+Tick > start {
			start = max(f.last+math.Ceil((o+Tick-f.last)/t)*t, now)
		}
	}
	f.last = start
	return start
}

// LastDurations plans like a scheduler that knows only how long the last cycles took: the next ends at the target if it
// takes as long as the longest of the last five. Our reading of vSphere Replication's documents, not its code.
type LastDurations struct{ took []float64 }

// Name is how results call it.
func (d *LastDurations) Name() string { return "last-duration" }

func (d *LastDurations) begin(*run) { d.took = nil }
func (d *LastDurations) done(_ *run, c outcome) {
	d.took = append(d.took, c.end-c.start)
	d.took = d.took[max(0, len(d.took)-5):]
}

func (d *LastDurations) next(r *run, now float64) float64 {
	longest := 0.0
	for _, t := range d.took {
		longest = max(longest, t)
	}
	if len(d.took) == 0 {
		longest = r.s.RPO.Seconds() / 2
	}
	return whenWritten(r, now, max(r.lastInstant, 0)+r.s.RPO.Seconds()-longest)
}

// whenWritten puts a start off until something was written, looking again each RPO/20.
func whenWritten(r *run, now, start float64) float64 {
	start = max(start, now)
	if r.failures > 0 {
		return max(r.retryAt, now)
	}
	o := r.origin(math.Inf(1))
	if math.IsInf(o, 1) || o+Tick <= start {
		if math.IsInf(o, 1) {
			return o
		}
		return start
	}
	look := r.s.RPO.Seconds() / 20
	return start + math.Ceil((o+Tick-start)/look)*look
}

// TwoGear is RPO/2, and an asynchronous schedule of twelve targets after three misses in a row; it returns after two cycles
// short enough. Our reading of Nutanix NearSync's documents, not its code.
type TwoGear struct {
	misses, hits int
	slow         bool
}

// Name is how results call it.
func (g *TwoGear) Name() string { return "two-gear" }

func (g *TwoGear) begin(*run) { *g = TwoGear{} }

func (g *TwoGear) done(r *run, c outcome) {
	rpo := r.s.RPO.Seconds()
	if c.end-c.instant > rpo/2 || c.failed {
		g.misses, g.hits = g.misses+1, 0
	} else {
		g.misses, g.hits = 0, g.hits+1
	}
	if g.misses >= 3 {
		g.slow = true
	} else if g.hits >= 2 {
		g.slow = false
	}
}

func (g *TwoGear) next(r *run, now float64) float64 {
	t := r.s.RPO.Seconds() / 2
	if g.slow {
		t = 12 * r.s.RPO.Seconds()
	}
	return whenWritten(r, now, max(r.lastInstant, 0)+t)
}
