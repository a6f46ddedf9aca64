package main

import (
	"fmt"
	"strings"
	"time"

	"understudy/internal/simulate"
)

var (
	targets    = []time.Duration{5 * time.Second, 30 * time.Second, 300 * time.Second}
	capacities = []float64{1.05, 2, 10}
)

// fleet is all traces with their links, and what was run on them already.
type fleet struct {
	specs []simulate.Spec
	beds  map[key]*simulate.Bed
	least map[key]float64
}

type key struct {
	trace string
	rpo   time.Duration
}

func newFleet(length time.Duration, seed uint64) (*fleet, error) {
	f := &fleet{specs: simulate.Specs(), beds: map[key]*simulate.Bed{}, least: map[key]float64{}}
	for _, s := range f.specs {
		t, err := s.Trace(length, seed)
		if err != nil {
			return nil, err
		}
		for _, rpo := range targets {
			k := key{s.Name, rpo}
			f.beds[k] = simulate.NewBed(t, simulate.Setup{RPO: rpo, Link: 1e6, Cross: [2]float64{0.1, 0.5}, Seed: seed})
			f.least[k] = f.beds[k].Minimum()
		}
	}
	return f, nil
}

// schedule is a way to run a trace.
type schedule struct {
	name string
	run  func(b *simulate.Bed, rpo time.Duration) simulate.Result
}

func adaptive() schedule {
	return schedule{"adaptive", func(b *simulate.Bed, _ time.Duration) simulate.Result { return b.Run(&simulate.Adaptive{}) }}
}

func half(skip bool) schedule {
	name := "fixed RPO/2"
	if skip {
		name += " + skip idle"
	}
	return schedule{name, func(b *simulate.Bed, rpo time.Duration) simulate.Result {
		return b.Run(&simulate.Fixed{T: rpo / 2, Skip: skip})
	}}
}

func fixedAt(share float64) schedule {
	return schedule{fmt.Sprintf("fixed %g RPO + skip idle", share), func(b *simulate.Bed, rpo time.Duration) simulate.Result {
		return b.Run(&simulate.Fixed{T: time.Duration(share * float64(rpo)), Skip: true})
	}}
}

func schedules() []schedule {
	return []schedule{
		adaptive(), half(true), half(false),
		{"best fixed per trace (hindsight)", func(b *simulate.Bed, _ time.Duration) simulate.Result { return b.BestFixed() }},
		{"last-duration planner", func(b *simulate.Bed, _ time.Duration) simulate.Result { return b.Run(&simulate.LastDurations{}) }},
		{"two-gear", func(b *simulate.Bed, _ time.Duration) simulate.Result { return b.Run(&simulate.TwoGear{}) }},
		fixedAt(1),
	}
}

// totals are weighted over the fleet; late, worst and events as the tables explain them.
type totals struct {
	bytes, cycles, cpu, late, p50, p99 float64
	worst, max                         float64 // worst share of time in violation and largest exposure / RPO of any trace, hot included
	worstOf                            string
	events                             int
}

func (t *totals) add(w float64, r simulate.Result) {
	t.bytes, t.cycles, t.cpu, t.late = t.bytes+w*r.Bytes, t.cycles+w*float64(r.Cycles), t.cpu+w*r.CPU, t.late+w*r.LateShare()
	t.p50, t.p99 = t.p50+w*r.P50/r.RPO, t.p99+w*r.P99/r.RPO
	t.max, t.events = max(t.max, r.Max/r.RPO), t.events+r.Violations
	if r.LateShare() > t.worst {
		t.worst, t.worstOf = r.LateShare(), r.Trace
	}
}

func (f *fleet) sum(rpo time.Duration, capacity float64, s schedule) totals {
	var t totals
	for _, spec := range f.specs {
		k := key{spec.Name, rpo}
		t.add(spec.Weight, s.run(f.beds[k].With(capacity*f.least[k]), rpo))
	}
	return t
}

func percent(a, b float64) float64 { return 100 * (a/b - 1) }

// grid is every schedule on every trace, target and capacity.
type grid struct {
	f         *fleet
	schedules []schedule
	results   map[cell]simulate.Result
}

type cell struct {
	trace    string
	rpo      time.Duration
	capacity float64
	schedule string
}

func (f *fleet) grid(list []schedule) grid {
	g := grid{f, list, map[cell]simulate.Result{}}
	for _, spec := range f.specs {
		for _, rpo := range targets {
			k := key{spec.Name, rpo}
			for _, c := range capacities {
				b := f.beds[k].With(c * f.least[k])
				for _, s := range list {
					g.results[cell{spec.Name, rpo, c, s.name}] = s.run(b, rpo)
				}
			}
		}
	}
	return g
}

func (g grid) sum(rpo time.Duration, c float64, s string) totals {
	var t totals
	for _, spec := range g.f.specs {
		t.add(spec.Weight, g.results[cell{spec.Name, rpo, c, s}])
	}
	return t
}

// main is the table of adaptive.md, section 7.
func (g grid) main(w *strings.Builder) {
	w.WriteString(`
### One VM, the mixed fleet

Against fixed RPO/2 without idle skip: bytes / cycles / CPU in %. Late: share of the time in violation over the fleet; worst: of any single trace,
the fleet's and ` + "`hot`" + `; events: violations, all traces together; p50, p99 and max of the exposure in RPO, p50 and p99 as means over the fleet. Capacity in
multiples of the least at which some fixed interval, idle skipped, has no violation on that trace.

| RPO s | capacity | schedule | bytes | cycles | CPU | late % | worst % | events | p50 | p99 | max |
|---|---|---|---|---|---|---|---|---|---|---|---|
`)
	for _, rpo := range targets {
		for _, c := range capacities {
			base := g.sum(rpo, c, "fixed RPO/2")
			for _, s := range g.schedules {
				t := g.sum(rpo, c, s.name)
				worst := fmt.Sprintf("%.3f", 100*t.worst)
				if t.worst > 0 {
					worst += " " + t.worstOf
				}
				fmt.Fprintf(w, "| %g | %g | %s | %+.1f | %+.1f | %+.1f | %.4f | %s | %d | %.2f | %.2f | %.2f |\n", rpo.Seconds(), c, s.name,
					percent(t.bytes, base.bytes), percent(t.cycles, base.cycles), percent(t.cpu, base.cpu), 100*t.late, worst, t.events, t.p50, t.p99, t.max)
			}
		}
	}
}

// traces is the table by trace.
func (g grid) traces(w *strings.Builder) {
	w.WriteString(`
### By trace

Adaptive, bytes / cycles in % against fixed RPO/2 without skip, then the largest exposure in RPO and the violations; after the bar the same of the best
fixed interval in hindsight.

| trace | RPO s | least link kB/s | 1.05x | 2x | 10x |
|---|---|---|---|---|---|
`)
	for _, spec := range g.f.specs {
		for _, rpo := range targets {
			fmt.Fprintf(w, "| %s | %g | %.0f |", spec.Name, rpo.Seconds(), g.f.least[key{spec.Name, rpo}]/1e3)
			for _, c := range capacities {
				base := g.results[cell{spec.Name, rpo, c, "fixed RPO/2"}]
				text := func(s string) string {
					r := g.results[cell{spec.Name, rpo, c, s}]
					return fmt.Sprintf("%+.0f/%+.0f, %.2f, %d", percent(r.Bytes, base.Bytes), percent(float64(r.Cycles), float64(base.Cycles)), r.Max/r.RPO, r.Violations)
				}
				fmt.Fprintf(w, " %s ∣ %s |", text("adaptive"), text("best fixed per trace (hindsight)"))
			}
			w.WriteString("\n")
		}
	}
}
