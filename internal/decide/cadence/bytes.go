package cadence

import (
	"fmt"
	"math"
	"slices"
)

// changed estimates the bytes of changed 4 KiB blocks from the write counters (w) and the dirty clusters (q); negative
// means unknown; since is what was written after q was asked for. Both are hard upper bounds. A learned ratio holds only up to the size it was seen at: beyond it every byte
// counts in full, because a change of kind (random writes, then a sequential burst) makes the delta 16 times the forecast.
func (e Estimates) changed(w, q, since int64) (bytes float64, known bool) {
	b := math.Inf(1)
	if w >= 0 {
		b = min(b, float64(w))
		if e.Learned && e.SizeW > 0 {
			b = min(b, guarded(e.PerW, float64(w), e.SizeW))
		}
	}
	if q >= 0 {
		b = min(b, float64(q)+float64(max(since, 0)))
		if e.Learned && e.SizeQ > 0 {
			b = min(b, guarded(e.PerQ, float64(q), e.SizeQ)+float64(max(since, 0)))
		}
	}
	if math.IsInf(b, 1) {
		return 0, false
	}
	return max(b, 0), true
}

func guarded(ratio, bytes, size float64) float64 {
	return ratio*min(bytes, size) + max(0, bytes-size)
}

// wire is what so many changed bytes are on the wire; beyond the sizes seen they may compress worse.
func (e Estimates) wire(changed float64) float64 {
	return e.Wire*min(changed, e.Size) + max(e.Wire, unseenWire)*max(0, changed-e.Size)
}

// quantile is the smallest value that at least the share p of the values does not exceed.
func quantile(values []float64, p float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Clone(values)
	slices.Sort(s)
	return s[min(max(int(math.Ceil(p*float64(len(s))))-1, 0), len(s)-1)]
}

func mean(values []float64) float64 {
	var sum float64
	for _, v := range values {
		sum += v
	}
	return sum / float64(max(len(values), 1))
}

func bytesText(b float64) string {
	switch {
	case b >= 1<<30:
		return fmt.Sprintf("%.1f GiB", b/(1<<30))
	case b >= 1<<20:
		return fmt.Sprintf("%.1f MiB", b/(1<<20))
	}
	return fmt.Sprintf("%.0f KiB", b/(1<<10))
}
