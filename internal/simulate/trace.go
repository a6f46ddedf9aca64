// Package simulate runs the real decision code over a write trace, in seconds of computing for hours of trace, and compares
// it with schedules that other products use. Everything is seeded: the same question has the same answer.
package simulate

import (
	"math"
	"sort"

	"understudy/internal/model"
)

// Sizes that the storage stack works with.
const (
	Block   = 4 << 10  // what guests write and the replica compares
	Cluster = 64 << 10 // what libvirt's bitmap tracks
	Tick    = 0.05     // s, the resolution of a trace

	perCluster = Cluster / Block
	never      = math.MinInt32
	maxBlocks  = 1 << 28 // block writes of a trace; 8 bytes each in memory
	denseLimit = 1 << 26 // blocks of a disk that are indexed without a map: 256 GiB
)

// Write is one write of a guest.
type Write struct {
	Time   float64 // s from the start of the trace
	First  uint64  // number of the first 4 KiB block
	Blocks uint32
}

// Trace is an indexed sequence of writes. For each block written it knows when that block and its cluster were written
// before, so that the unique bytes of any window are a count over a sequential scan: those whose last write is before it.
type Trace struct {
	Name    string
	Seconds float64
	Ratio   float64 // bytes on the wire per changed byte

	first  []int32 // by tick: index of its first block write
	prev4  []int32 // by block write: tick of the write before to the block
	prev64 []int32 // the same of its cluster
}

// NewTrace indexes writes; they must be in order of time.
func NewTrace(name string, seconds, ratio float64, writes []Write) (*Trace, error) {
	if !(seconds > 0) || seconds > 366*86400 {
		return nil, model.Fail(model.InvalidArgument, nil, "a trace of %g s cannot be simulated", seconds)
	}
	if !(ratio > 0) || ratio > 2 {
		ratio = 1
	}
	ticks := int(math.Ceil(seconds/Tick)) + 1
	t := &Trace{Name: name, Seconds: seconds, Ratio: ratio, first: make([]int32, ticks+1)}
	var total int
	var highest uint64
	for i, w := range writes {
		if i > 0 && w.Time < writes[i-1].Time {
			return nil, model.Fail(model.InvalidArgument, nil, "write %d of the trace is earlier than the one before it", i+1)
		}
		if w.Time < 0 || w.Time > seconds {
			return nil, model.Fail(model.InvalidArgument, nil, "write %d of the trace, at %g s, is outside of its %g s", i+1, w.Time, seconds)
		}
		if total += int(w.Blocks); total > maxBlocks {
			return nil, model.Fail(model.InvalidArgument, nil, "the trace writes more than %d blocks", maxBlocks).WithTry("cut it into shorter ones")
		}
		highest = max(highest, w.First+uint64(w.Blocks))
	}
	t.prev4, t.prev64 = make([]int32, 0, total), make([]int32, 0, total)
	last4, last64 := newLast(highest), newLast(highest/perCluster+1)
	tick := 0
	for _, w := range writes {
		at := int(w.Time / Tick)
		for ; tick < at; tick++ {
			t.first[tick+1] = int32(len(t.prev4))
		}
		for b := w.First; b < w.First+uint64(w.Blocks); b++ {
			t.prev4 = append(t.prev4, last4.swap(b, int32(at)))
			t.prev64 = append(t.prev64, last64.swap(b/perCluster, int32(at)))
		}
	}
	for ; tick < ticks; tick++ {
		t.first[tick+1] = int32(len(t.prev4))
	}
	return t, nil
}

// last is the tick of the last write by block: an array for disks of ordinary size, a map for others.
type last struct {
	dense  []int32
	sparse map[uint64]int32
}

func newLast(n uint64) last {
	if n > denseLimit {
		return last{sparse: map[uint64]int32{}}
	}
	l := last{dense: make([]int32, n)}
	for i := range l.dense {
		l.dense[i] = never
	}
	return l
}

func (l last) swap(b uint64, at int32) int32 {
	if l.dense != nil {
		before := l.dense[b]
		l.dense[b] = at
		return before
	}
	before, known := l.sparse[b]
	l.sparse[b] = at
	if !known {
		return never
	}
	return before
}

func (t *Trace) ticks() int { return len(t.first) - 1 }

// Written is the sum of all writes in bytes.
func (t *Trace) Written() float64 { return float64(len(t.prev4)) * Block }

// firstWrite is the first tick at or after from with a write, or ticks() when there is none.
func (t *Trace) firstWrite(from int) int {
	n := t.first[from]
	return from + sort.Search(t.ticks()-from, func(i int) bool { return t.first[from+i+1] > n })
}

// window counts what was written since a capture.
type window struct {
	from, upTo int // ticks
	w, b, q    int // block writes, unique blocks, unique clusters
}

func (t *Trace) advance(w *window, to int) {
	to = min(to, t.ticks())
	if to <= w.upTo {
		return
	}
	lo, hi, from := t.first[w.upTo], t.first[to], int32(w.from)
	b, q := 0, 0
	prev64 := t.prev64[lo:hi]
	for i, p := range t.prev4[lo:hi] {
		if p < from {
			b++
		}
		if prev64[i] < from {
			q++
		}
	}
	w.w, w.b, w.q, w.upTo = w.w+int(hi-lo), w.b+b, w.q+q, to
}

// Unique is the mean of the unique bytes over windows of so many seconds, by 4 KiB blocks and by 64 KiB clusters: D(T).
func (t *Trace) Unique(seconds float64) (blocks, clusters float64) {
	span := max(int(seconds/Tick), 1)
	n := 0
	for from := 0; from+span <= t.ticks(); from += span {
		w := window{from: from, upTo: from}
		t.advance(&w, from+span)
		blocks, clusters, n = blocks+float64(w.b*Block), clusters+float64(w.q*Cluster), n+1
	}
	return blocks / float64(max(n, 1)), clusters / float64(max(n, 1))
}

// busiest is the share of windows that Demand leaves out.
const busiest = 0.05

// Demand is the bytes on the wire of a capture each so many seconds, in all but the busiest twentieth of such windows.
func (t *Trace) Demand(seconds float64) float64 {
	span := max(int(seconds/Tick), 1)
	var sizes []float64
	for from := 0; from+span <= t.ticks(); from += max(span/2, 1) {
		w := window{from: from, upTo: from}
		t.advance(&w, from+span)
		sizes = append(sizes, float64(w.b*Block)*t.Ratio)
	}
	if len(sizes) == 0 {
		return 0
	}
	sort.Float64s(sizes)
	return sizes[int(float64(len(sizes)-1)*(1-busiest))]
}
