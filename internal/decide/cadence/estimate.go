package cadence

import "time"

const (
	// First guesses, until cycles were measured.
	defaultRate  = 8 << 20 // bytes/s
	defaultFixed = time.Second
	smallest     = 4 << 20 // below it a cycle's time says nothing about the throughput
	rateGuard    = 0.7     // of the measured throughput
	fewSamples   = 8
	coldGuard    = 2.0 // on the duration, with few samples
	warmGuard    = 1.25
)

// Sample is one recent cycle.
type Sample struct {
	TakenAt time.Time
	Bytes   int64         // it looked at
	Took    time.Duration // capture to verified
}

// Estimate is what the recent cycles say about the next one: a fixed part, a throughput and a load. It is guarded, because
// a cycle that takes longer than planned costs a violation and one that takes shorter costs nothing but a cycle.
type Estimate struct {
	Fixed time.Duration
	Rate  float64 // bytes/s, positive
	Load  float64 // share of the time in which our own transfers keep the link busy, 0..1
	Guard float64
}

// NewEstimate learns from samples, oldest first. The throughput is that of the cycle with the most bytes (smaller ones
// measure the fixed part); the fixed part is the largest rest that the throughput does not explain.
func NewEstimate(samples []Sample) Estimate {
	e := Estimate{Fixed: defaultFixed, Rate: defaultRate, Guard: coldGuard}
	var biggest Sample
	for _, s := range samples {
		if s.Took > 0 && s.Bytes > biggest.Bytes {
			biggest = s
		}
	}
	if biggest.Bytes >= smallest {
		e.Rate = max(rateGuard*float64(biggest.Bytes)/biggest.Took.Seconds(), 1)
	}
	if len(samples) > 0 {
		e.Fixed = 0
	}
	for _, s := range samples {
		e.Fixed = max(e.Fixed, s.Took-e.transfer(s.Bytes))
	}
	if len(samples) >= fewSamples {
		e.Guard = warmGuard
	}
	e.Load = e.load(samples)
	return e
}

// Duration is the guarded estimate of a cycle over so many bytes. Unknown bytes count as none: the fixed part still stands.
func (e Estimate) Duration(bytes int64) time.Duration {
	return scale(e.Fixed+e.transfer(max(bytes, 0)), e.Guard)
}

// AgeLimit is max(0.25, 1 - 0.8 u): near capacity the latest start alone oscillates between late start and late finish.
func (e Estimate) AgeLimit() float64 { return max(0.25, 1-0.8*e.Load) }

// load takes transfer time only, never the fixed part: with it an earlier start would raise the load, which starts
// earlier still.
func (e Estimate) load(samples []Sample) float64 {
	var u float64
	for i := 1; i < len(samples); i++ {
		if apart := samples[i].TakenAt.Sub(samples[i-1].TakenAt); apart > 0 {
			u = max(u, e.transfer(samples[i].Bytes).Seconds()/apart.Seconds())
		}
	}
	return min(u, 1)
}

// transfer is capped at a day: nobody plans beyond it, and a sum of two of them must not overflow.
func (e Estimate) transfer(bytes int64) time.Duration {
	s := float64(bytes) / e.Rate
	return time.Duration(min(s, 86400) * float64(time.Second))
}
