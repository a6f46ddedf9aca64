package simulate

import (
	"time"
)

// fractions of RPO that the search for the best fixed interval tries.
var fractions = []float64{0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05}

func (b *Bed) fixed(share float64) Result {
	t := (time.Duration(float64(b.setup.RPO)*share) / time.Millisecond) * time.Millisecond
	return b.Run(&Fixed{T: t, Skip: true})
}

// BestFixed is the interval with the fewest cycles among those without a violation, or with the least time in violation
// when all have some. It is chosen in hindsight: nobody has it in advance.
func (b *Bed) BestFixed() Result {
	var best Result
	for i, f := range fractions {
		r := b.fixed(f)
		r.Planner = "best-" + r.Planner
		switch {
		case i == 0, r.Late < best.Late, r.Late == best.Late && r.Cycles < best.Cycles:
			best = r
		}
		if best.Late == 0 {
			break // longer intervals were tried first
		}
	}
	return best
}

// Minimum is the smallest capacity of the link at which some fixed interval, idle skipped, has no violation, to 2 %.
func (b *Bed) Minimum() float64 {
	coarse := []float64{0.8, 0.65, 0.5, 0.4, 0.3, 0.2, 0.1}
	good := 2
	fits := func(c float64) bool {
		bed := b.With(c)
		if bed.fixed(coarse[good]).Late == 0 {
			return true
		}
		for i, f := range coarse {
			if i != good && bed.fixed(f).Late == 0 {
				good = i
				return true
			}
		}
		return false
	}
	high := 64e3
	for !fits(high) && high < 1e12 {
		high *= 2
	}
	low := high / 2
	for high/low > 1.02 {
		if mid := (low + high) / 2; fits(mid) {
			high = mid
		} else {
			low = mid
		}
	}
	return high
}
