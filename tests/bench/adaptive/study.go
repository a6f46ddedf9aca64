package main

import (
	"fmt"
	"strings"
	"time"

	"understudy/internal/decide/cadence"
	"understudy/internal/simulate"
)

// blockSizes compares changed 4 KiB blocks with whole clusters, both at RPO/2.
func blockSizes(w *strings.Builder, f *fleet) {
	w.WriteString(`
### Blocks of 4 KiB instead of clusters of 64 KiB

Bytes saved against sending each dirty cluster whole, both at a fixed RPO/2 with idle skip, before compression, in %.

| trace | RPO 5 s | 30 s | 300 s |
|---|---|---|---|
`)
	for _, s := range f.specs {
		fmt.Fprintf(w, "| %s |", s.Name)
		for _, rpo := range targets {
			k := key{s.Name, rpo}
			r := f.beds[k].With(10 * f.least[k]).Run(&simulate.Fixed{T: rpo / 2, Skip: true})
			fmt.Fprintf(w, " %.0f |", 100*(1-r.Dirty4K/max(r.Dirty64K, 1)))
		}
		w.WriteString("\n")
	}
}

// failures lets the link fail for 3 s, on average every 20 minutes: a replicate under way then is lost.
func (f *fleet) failures(w *strings.Builder) {
	w.WriteString(`
### Failed attempts

The link fails for 3 s, on average every 20 minutes; a replicate under way fails, is retried with the product's back-off and sends everything again (the
product resumes a large one, the model does not). Cycles in % of fixed RPO/2 without failures; late and events as above.

| RPO s | capacity | schedule | failed attempts | cycles | late % | worst % | events | max |
|---|---|---|---|---|---|---|---|---|
`)
	careful, late := cadence.Defaults(), cadence.Defaults()
	careful.RetryRoom, late.RetryRoom = 1, 0
	list := []schedule{
		adaptive(),
		{"adaptive, room for one failed attempt", func(b *simulate.Bed, _ time.Duration) simulate.Result {
			return b.Run(&simulate.Adaptive{Constants: &careful})
		}},
		{"adaptive, no room for a failed attempt", func(b *simulate.Bed, _ time.Duration) simulate.Result {
			return b.Run(&simulate.Adaptive{Constants: &late})
		}},
		half(true),
		{"last-duration planner", func(b *simulate.Bed, _ time.Duration) simulate.Result { return b.Run(&simulate.LastDurations{}) }},
	}
	for _, rpo := range targets {
		for _, c := range capacities[1:] {
			base := f.sum(rpo, c, half(false))
			for _, s := range list {
				failed := 0
				t := f.sum(rpo, c, schedule{s.name, func(b *simulate.Bed, rpo time.Duration) simulate.Result {
					r := s.run(b.Failing(20*time.Minute), rpo)
					failed += r.Failed
					return r
				}})
				fmt.Fprintf(w, "| %g | %g | %s | %d | %+.1f | %.4f | %.3f %s | %d | %.2f |\n", rpo.Seconds(), c, s.name, failed, percent(t.cycles, base.cycles),
					100*t.late, 100*t.worst, t.worstOf, t.events, t.max)
			}
		}
	}
}

// bursts writes ten times as much for a while.
func bursts(w *strings.Builder) error {
	w.WriteString(`
### A burst of ten times the rate

An append of 80 kB/s that becomes 800 kB/s for four targets, on a link without other traffic. First start: after the onset; interval: the mean in the burst's second half;
back: cycles after its end until the interval is within 10 % of the old one.

| RPO s | link / base rate | violations | max exposure, RPO | interval before s | first start s | interval in burst s | back after cycles |
|---|---|---|---|---|---|---|---|
`)
	for _, rpo := range targets {
		for _, times := range []float64{12, 40, 120} {
			const rate = 20.0 // blocks/s
			length := 40 * rpo.Seconds()
			on, off := 16*rpo.Seconds(), 20*rpo.Seconds()
			var writes []simulate.Write
			for at, block := 0.0, uint64(0); at < length; block++ {
				writes = append(writes, simulate.Write{Time: at, First: block, Blocks: 1})
				if at > on && at < off {
					at += 0.1 / rate
				} else {
					at += 1 / rate
				}
			}
			t, err := simulate.NewTrace("burst", length, 1, writes)
			if err != nil {
				return err
			}
			r := simulate.NewBed(t, simulate.Setup{RPO: rpo, Link: times * rate * simulate.Block, Seed: 1, KeepTrail: true}).Run(&simulate.Adaptive{})
			before, start, in, back := burstFigures(r, on, off)
			fmt.Fprintf(w, "| %g | %g | %d | %.2f | %.1f | %.1f | %.1f | %s |\n", rpo.Seconds(), times, r.Violations, r.Max/r.RPO, before, start, in, back)
		}
	}
	return nil
}

func burstFigures(r simulate.Result, on, off float64) (before, start, in float64, back string) {
	start = -1
	back = "not within the trace"
	n, sum, after := 0, 0.0, 0
	for i := 1; i < len(r.Trail); i++ {
		at, interval := r.Trail[i].Instant, r.Trail[i].Instant-r.Trail[i-1].Instant
		switch {
		case at < on:
			before = interval
		case at < off:
			if start < 0 {
				start = at - on
			}
			if at > (on+off)/2 {
				n, sum = n+1, sum+interval
			}
		default:
			if after++; interval > 0.9*before {
				return before, start, sum / float64(max(n, 1)), fmt.Sprint(after)
			}
		}
	}
	return before, start, sum / float64(max(n, 1)), back
}

// decisions times the decision itself.
func decisions(w *strings.Builder) {
	l := &cadence.Learned{Rate: 1e7}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for range 200 {
		now = now.Add(20 * time.Second)
		l.Done(cadence.Cycle{TakenAt: now, Interval: 20 * time.Second, Written: 2e7, Dirty: 3e7, Changed: 1e7, Sent: 5e6, Fixed: 3e8, Moved: 6e8, Predicted: 5e8}, 30*time.Second)
	}
	oldest := now.Add(time.Second)
	in := cadence.Input{Now: now.Add(9 * time.Second), RPO: 30 * time.Second, Committed: true, LastCapture: now, Oldest: &oldest, Learned: l, Written: 1e7, Dirty: 2e7}
	const n = 200_000
	began := time.Now()
	for range n {
		cadence.Decide(in)
	}
	fmt.Fprintf(w, "\n### Cost of a decision\n\n%.1f µs each with its reason in words, one core; 200 VMs: %.2f ms.\n", float64(time.Since(began).Microseconds())/n,
		200*float64(time.Since(began).Microseconds())/n/1000)
}

// otherSeeds checks that the first seed is no exception.
func otherSeeds(w *strings.Builder, length time.Duration, seeds int) error {
	w.WriteString(`
### Other seeds

Adaptive alone: bytes / cycles in % against fixed RPO/2; late % over the fleet; worst % of a single trace; events.

| seed | RPO s | 1.05x | 2x | 10x |
|---|---|---|---|---|
`)
	for seed := 2; seed <= seeds; seed++ {
		f, err := newFleet(length, uint64(seed))
		if err != nil {
			return err
		}
		for _, rpo := range targets {
			fmt.Fprintf(w, "| %d | %g |", seed, rpo.Seconds())
			for _, c := range capacities {
				base, t := f.sum(rpo, c, half(false)), f.sum(rpo, c, adaptive())
				fmt.Fprintf(w, " %+.1f/%+.1f; %.4f; %.3f %s; %d |", percent(t.bytes, base.bytes), percent(t.cycles, base.cycles), 100*t.late, 100*t.worst, t.worstOf, t.events)
			}
			w.WriteString("\n")
		}
	}
	return nil
}

// constants shows what another value of each constant does.
func (f *fleet) constants(w *strings.Builder) {
	w.WriteString(`Cycles of the mixed fleet in % against fixed RPO/2 at 2x, then the share of the time in violation at 1.05x / 2x / 10x in 1/100 000, by target; last
the cycles of ` + "`hot`" + ` at 300 s and 2x, which has no weight in the fleet.

| value | RPO 5 s | 30 s | 300 s | hot |
|---|---|---|---|---|
`)
	for _, v := range variants() {
		k := cadence.Defaults()
		v.change(&k)
		s := schedule{v.name, func(b *simulate.Bed, _ time.Duration) simulate.Result {
			return b.Run(&simulate.Adaptive{Constants: &k})
		}}
		fmt.Fprintf(w, "| %s |", v.name)
		for _, rpo := range targets {
			base := f.sum(rpo, 2, half(false))
			just, twice, ample := f.sum(rpo, 1.05, s), f.sum(rpo, 2, s), f.sum(rpo, 10, s)
			fmt.Fprintf(w, " %+.1f; %.1f / %.1f / %.1f |", percent(twice.cycles, base.cycles), 1e5*just.late, 1e5*twice.late, 1e5*ample.late)
		}
		worst := key{"hot", targets[2]}
		b := f.beds[worst].With(2 * f.least[worst])
		fmt.Fprintf(w, " %+.1f |\n", percent(float64(s.run(b, worst.rpo).Cycles), float64(half(false).run(b, worst.rpo).Cycles)))
	}
}

type variant struct {
	name   string
	change func(*cadence.Constants)
}

func variants() []variant {
	return []variant{
		{"as it is", func(*cadence.Constants) {}},
		{"margin halved (0.025 RPO, at least 0.25 s)", func(k *cadence.Constants) { k.MarginShare, k.MarginLeast = k.MarginShare/2, k.MarginLeast/2 }},
		{"margin doubled", func(k *cadence.Constants) { k.MarginShare, k.MarginLeast = 2*k.MarginShare, 2*k.MarginLeast }},
		{"not ready for the worst fixed cost", func(k *cadence.Constants) { k.WorstFactor, k.WorstMargin = 0, -1e9 }},
		{"worst fixed cost 2x the mean", func(k *cadence.Constants) { k.WorstFactor = 2 }},
		{"counters read each RPO/10", func(k *cadence.Constants) { k.PeriodShare = 0.1 }},
		{"fixed cost p90", func(k *cadence.Constants) { k.FixedQ = 0.9 }},
		{"guard f p90", func(k *cadence.Constants) { k.GuardQ = 0.9 }},
		{"guard f p99", func(k *cadence.Constants) { k.GuardQ = 0.99 }},
		{"ratios at the median", func(k *cadence.Constants) { k.RatioQ = 0.5 }},
		{"no age limit", func(k *cadence.Constants) { k.Slope, k.Curve = 0, 0 }},
		{"age limit max(0.25, 1 - 0.8 u), as the first model", func(k *cadence.Constants) { k.Slope, k.Curve, k.LeastLimit = 0.8, 0, 0.25 }},
		{"age limit 1 - u", func(k *cadence.Constants) { k.Slope, k.Curve = 1, 0 }},
		{"least limit 0.15 RPO", func(k *cadence.Constants) { k.LeastLimit = 0.15 }},
		{"least limit 0.3 RPO", func(k *cadence.Constants) { k.LeastLimit = 0.3 }},
		{"load of the running window not counted", func(k *cadence.Constants) { k.Live = false }},
		{"no burst reserve", func(k *cadence.Constants) { k.Reserve = 0 }},
		{"burst reserve 1.0", func(k *cadence.Constants) { k.Reserve = 1 }},
		{"memory of 10 min at any target", func(k *cadence.Constants) { k.HalfLives = 0 }},
		{"memory of an hour", func(k *cadence.Constants) { k.HalfLife = time.Hour }},
		{"growth smoothed over RPO/20", func(k *cadence.Constants) { k.PaceShare = 0.05 }},
		{"growth smoothed over RPO/5", func(k *cadence.Constants) { k.PaceShare = 0.2 }},
		{"least distance 0.05 RPO", func(k *cadence.Constants) { k.TMin = 0.05 }},
		{"least distance 0.2 RPO", func(k *cadence.Constants) { k.TMin = 0.2 }},
		{"no room for a failed attempt", func(k *cadence.Constants) { k.RetryRoom = 0 }},
		{"room for one in cycles up to 0.04 RPO", func(k *cadence.Constants) { k.RetryRoom = 0.04 }},
		{"room for one whatever the cycle takes", func(k *cadence.Constants) { k.RetryRoom = 1 }},
	}
}
