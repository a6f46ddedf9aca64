package simulate

import (
	"math/rand/v2"
	"sort"
)

// link is a link with traffic of others: share[i] of its capacity is ours until tick i, summed up, so that the end of a
// transfer is one search.
type link struct {
	capacity float64 // bytes/s
	sum      []float64
}

// newLink lets others take between low and high of the capacity, a new level every few seconds.
func newLink(capacity, low, high, seconds float64, seed uint64) *link {
	rng := rand.New(rand.NewPCG(seed, 0x11))
	n := int(seconds/Tick) + 2
	l := &link{capacity: capacity, sum: make([]float64, n)}
	level, left := (low+high)/2, 0
	for i := 1; i < n; i++ {
		if left--; left < 0 {
			level, left = low+(high-low)*rng.Float64(), 40+rng.IntN(360) // 2 to 20 s
		}
		l.sum[i] = l.sum[i-1] + (1-level)*Tick
	}
	return l
}

func (l *link) with(capacity float64) *link { return &link{capacity, l.sum} }

// mean is the share that is ours.
func (l *link) mean() float64 { return l.sum[len(l.sum)-1] / (float64(len(l.sum)-1) * Tick) }

// end is when a transfer of so many bytes ends that starts at a time.
func (l *link) end(start, bytes float64) float64 {
	last := len(l.sum) - 1
	i := min(int(start/Tick), last-1)
	goal := l.sum[i] + (l.sum[i+1]-l.sum[i])*(start/Tick-float64(i)) + bytes/l.capacity
	if goal >= l.sum[last] {
		return float64(last)*Tick + (goal-l.sum[last])/l.mean()
	}
	j := i + sort.Search(last-i, func(k int) bool { return l.sum[i+k] >= goal })
	if j == i {
		j++
	}
	return (float64(j) - (l.sum[j]-goal)/(l.sum[j]-l.sum[j-1])) * Tick
}
