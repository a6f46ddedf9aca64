package cadence

import "time"

// Constants of the law. docs/POLICY.md says what each is for, in which unit, and what another value does as simulated;
// nobody but a study sets them.
type Constants struct {
	MarginShare  float64 // of RPO, kept between the planned verification and the target
	MarginLeast  float64 // s
	WorstFactor  float64 // the largest fixed cost to be ready for, as a multiple of the mean
	WorstMargin  float64 // s, kept even then
	PeriodShare  float64 // of RPO between two reads of the counters
	FixedQ       float64 // quantile of the fixed cost
	GuardQ       float64 // quantile of measured / predicted
	RatioQ       float64 // quantile of the ratios of changed bytes and of bytes on the wire
	Slope, Curve float64 // age limit 1 - Slope u - Curve u²
	LeastLimit   float64 // of RPO
	Live         bool    // the load of the running window counts
	Reserve      float64 // of the largest growth remembered
	ReserveFrom  float64 // of RPO: from this age on
	HalfLife     time.Duration
	HalfLives    float64 // of RPO: the memory is the larger of the two
	PaceShare    float64 // of RPO: time constant of the smoothed growth
	TMin         float64 // of RPO
	RetryRoom    float64 // of RPO: cycles up to so long have room for a whole second attempt
}

// Defaults are what is used.
func Defaults() Constants {
	return Constants{
		MarginShare: 0.05, MarginLeast: 0.5, WorstFactor: 3.5, WorstMargin: 0.2, PeriodShare: 1.0 / 40, FixedQ: 0.99, GuardQ: 0.95, RatioQ: 0.9,
		Slope: 0.6, Curve: 0.4, LeastLimit: 0.22, Live: true, Reserve: 0.5, ReserveFrom: 0.25,
		HalfLife: 10 * time.Minute, HalfLives: 4, PaceShare: 0.1, TMin: tminShare, RetryRoom: 0.08,
	}
}

const (
	seedGuard   = 0.7 // of the throughput of the seeding
	fewSamples  = 8
	coldGuard   = 2.0 // on the transfer, with fewer samples
	coldFixed   = 1.0 // s, least fixed cost while few cycles were seen
	unseenWire  = 0.6 // bytes sent per byte changed beyond the sizes seen, at least
	reaction    = 0.3 // s from the decision to the instant of the capture
	coldRate    = 8 << 20
	shortest    = 0.05 // s: no timer is finer
	bigJump     = 0.25 // of the bytes known: the counter jumped, ask for the size at once
	jumpFloor   = 1 << 20
	crowdFrom   = 0.85 // allocator: eligible from max(0.5, 0.85 - 0.6 U) of RPO
	crowdSlope  = 0.6
	crowdLeast  = 0.5
	worstMemory = time.Hour // half-life of the largest fixed cost: it belongs to the hosts, not to the load
)

// Period is how often the write counters are read: h.
func Period(rpo time.Duration) time.Duration { return Defaults().Period(rpo) }

// Period is how often the write counters are read under these constants.
func (k Constants) Period(rpo time.Duration) time.Duration {
	return min(max(scale(rpo, k.PeriodShare), 250*time.Millisecond), 4*time.Second)
}

// Margin is kept between the planned verification and the target.
func Margin(rpo time.Duration) time.Duration { return span(Defaults().margin(rpo.Seconds())) }

func (k Constants) margin(rpo float64) float64 { return max(k.MarginLeast, k.MarginShare*rpo) }

// Memory is the half-life of what was remembered as a peak.
func Memory(rpo time.Duration) time.Duration { return Defaults().memory(rpo) }

func (k Constants) memory(rpo time.Duration) time.Duration {
	return max(k.HalfLife, scale(rpo, k.HalfLives))
}
