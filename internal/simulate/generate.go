package simulate

import (
	"hash/fnv"
	"math"
	"math/rand/v2"
	"sort"
	"time"

	"understudy/internal/model"
)

// Spec names a generated trace: what is shipped is the model and the seed, the writes are made when they are needed.
type Spec struct {
	Name   string
	About  string
	Weight float64 // in the mixed fleet
	Ratio  float64 // bytes on the wire per changed byte
	make   func(*guest)
}

// Specs are the shipped traces in the order of the documents; docs/TRACES.md states the models and their sources.
func Specs() []Spec {
	return []Spec{
		{"oltp", "16 KiB pages chosen by popularity, and a circular redo log", 0.15, 0.45, oltp},
		{"log", "a steady append with a small journal", 0.10, 0.25, appendLog},
		{"web", "small scattered writes, written back every 5 s, busy and quiet minutes", 0.15, 0.40, web},
		{"build", "builds of minutes that rewrite the same tree, then nothing", 0.05, 0.50, build},
		{"batch", "quiet, and one nightly job that writes in sequence", 0.05, 0.50, batch},
		{"boot", "a boot of a minute every forty minutes, else almost nothing", 0.05, 0.50, boot},
		{"desktop", "short bursts of very different size, long pauses", 0.20, 0.50, desktop},
		{"idle", "a system journal, a few blocks every two minutes", 0.25, 0.40, idle},
		{"hot", "24 MiB rewritten for ever", 0, 0.50, hot},
	}
}

// Mixed is the name of the weighted fleet of all specs.
const Mixed = "mixed"

// Find looks a spec up.
func Find(name string) (Spec, bool) {
	for _, s := range Specs() {
		if s.Name == name {
			return s, true
		}
	}
	return Spec{}, false
}

// Generate makes the writes of a spec.
func (s Spec) Generate(length time.Duration, seed uint64) []Write {
	h := fnv.New64a()
	_, _ = h.Write([]byte(s.Name))
	g := &guest{rng: rand.New(rand.NewPCG(seed, h.Sum64())), end: length.Seconds()}
	s.make(g)
	sort.SliceStable(g.writes, func(i, j int) bool { return g.writes[i].Time < g.writes[j].Time })
	return g.writes
}

// Trace makes and indexes the trace of a spec.
func (s Spec) Trace(length time.Duration, seed uint64) (*Trace, error) {
	if length < time.Minute || length > 7*24*time.Hour {
		return nil, model.Fail(model.InvalidArgument, nil, "a generated trace is between 1m and 168h long, not %s", length)
	}
	return NewTrace(s.Name, length.Seconds(), s.Ratio, s.Generate(length, seed))
}

// guest writes to a disk of its own.
type guest struct {
	rng    *rand.Rand
	end    float64
	writes []Write
	top    uint64 // first block not in a region
}

func (g *guest) write(at float64, first uint64, blocks int) {
	if at < g.end && blocks > 0 {
		g.writes = append(g.writes, Write{at, first, uint32(blocks)})
	}
}

// region is a range of the disk with a cursor for writes in sequence.
type region struct{ base, size, at uint64 }

func (g *guest) region(mib int) *region {
	r := &region{base: g.top, size: uint64(mib) << 20 / Block}
	g.top += r.size
	return r
}

// next is where the following blocks of a circular sequence go.
func (r *region) next(blocks int) uint64 {
	if r.at+uint64(blocks) > r.size {
		r.at = 0
	}
	first := r.base + r.at
	r.at += uint64(blocks)
	return first
}

// any is a uniformly chosen unit of so many blocks.
func (r *region) any(g *guest, unit int) uint64 {
	return r.base + g.rng.Uint64N(r.size/uint64(unit))*uint64(unit)
}

// popular chooses units by a Zipf law, scattered over the region.
func (r *region) popular(g *guest, s float64, unit int) func() uint64 {
	units := r.size / uint64(unit)
	z := rand.NewZipf(g.rng, s, 8, units-1)
	return func() uint64 { return r.base + (z.Uint64()*2654435761)%units*uint64(unit) }
}

func (g *guest) exp(mean float64) float64 { return g.rng.ExpFloat64() * mean }

func (g *guest) pareto(least, shape, most float64) float64 {
	return min(least*math.Pow(1-g.rng.Float64(), -1/shape), most)
}

func (g *guest) lognormal(median, sigma float64) float64 {
	return median * math.Exp(sigma*g.rng.NormFloat64())
}

// poisson calls do at the times of a Poisson process from..to.
func (g *guest) poisson(from, to, perSecond float64, do func(at float64)) {
	for at := from + g.exp(1/perSecond); at < min(to, g.end); at += g.exp(1 / perSecond) {
		do(at)
	}
}

// wander is activity around 1 that changes each period.
func (g *guest) wander(period, sigma float64, do func(from, to, activity float64)) {
	x := 0.0
	for at := 0.0; at < g.end; at += period {
		x = 0.8*x + 0.6*sigma*g.rng.NormFloat64()
		do(at, at+period, math.Exp(x))
	}
}

func oltp(g *guest) {
	page := g.region(1024).popular(g, 1.2, 4)
	redo := g.region(128)
	g.wander(20, 0.35, func(from, to, a float64) {
		g.poisson(from, to, 24*a, func(at float64) { g.write(at, page(), 4) })
		g.poisson(from, to, 50*a, func(at float64) { g.write(at, redo.next(1), 1) })
	})
}

func appendLog(g *guest) {
	file, journal := g.region(8192), g.region(32)
	g.wander(60, 0.1, func(from, to, a float64) {
		g.poisson(from, to, 12*a, func(at float64) { g.write(at, file.next(8), 8) })
		g.poisson(from, to, 4, func(at float64) { g.write(at, journal.next(2), 2) })
	})
}

func web(g *guest) {
	page := g.region(256).popular(g, 1.1, 1)
	access := g.region(2048)
	busy, until := 1.0, 0.0
	for at := g.rng.Float64() * 5; at < g.end; at += 5 { // the kernel's write-back
		if at >= until {
			busy, until = []float64{0, 0.25, 1, 2}[g.rng.IntN(4)], at+g.exp(150)
		}
		n := int(g.lognormal(220, 0.4) * busy)
		for i := range n {
			g.write(at+0.3*float64(i)/float64(n), page(), 1)
		}
		if n > 0 {
			g.write(at+0.3, access.next(n/4+1), n/4+1)
		}
	}
}

func build(g *guest) {
	tree := g.region(512)
	for at := g.exp(60); at < g.end; {
		stop := at + g.lognormal(90, 0.5)
		tree.at = 0
		g.poisson(at, stop, 28, func(at float64) {
			n := 1 + int(g.pareto(2, 1.1, 128))
			g.write(at, tree.next(n), n)
		})
		at = stop + g.exp(200)
	}
	g.idleSystem()
}

func batch(g *guest) {
	table := g.region(256)
	g.poisson(0, g.end, 3, func(at float64) { g.write(at, table.any(g, 2), 2) })
	out := g.region(12288)
	start := 0.4 * g.end
	g.poisson(start, start+0.08*g.end, 75, func(at float64) { g.write(at, out.next(16), 16) })
}

func boot(g *guest) {
	system := g.region(1024)
	zipf := system.popular(g, 1.2, 1)
	for at := g.exp(600); at < g.end; at += 2400 * (0.8 + 0.4*g.rng.Float64()) {
		g.poisson(at, at+75, 110, func(at float64) { g.write(at, system.any(g, 8), 4) })
		g.poisson(at, at+75, 150, func(at float64) { g.write(at, zipf(), 1) })
	}
	g.idleSystem()
}

func desktop(g *guest) {
	home, cache := g.region(512).popular(g, 1.15, 1), g.region(1024)
	for at := g.pareto(10, 1.3, 900); at < g.end; {
		stop := at + g.pareto(4, 1.4, 300)
		g.poisson(at, stop, g.lognormal(25, 1.1), func(at float64) {
			if g.rng.Float64() < 0.7 {
				g.write(at, home(), 1)
				return
			}
			n := 1 + int(g.pareto(1, 1.2, 64))
			g.write(at, cache.next(n), n)
		})
		at = stop + g.pareto(12, 1.2, 1800)
	}
	g.idleSystem()
}

func idle(g *guest) { g.idleSystem() }

// idleSystem is what every guest writes: a system journal, written through its file system's journal.
func (g *guest) idleSystem() {
	journal, meta := g.region(64), g.region(16)
	g.poisson(0, g.end, 1.0/120, func(at float64) {
		g.write(at, journal.next(2), 2)
		g.write(at+0.05, meta.any(g, 1), 1)
		g.write(at+5, meta.any(g, 1), 1)
	})
}

func hot(g *guest) {
	area := g.region(24)
	g.poisson(0, g.end, 180, func(at float64) { g.write(at, area.any(g, 1), 1) })
}
