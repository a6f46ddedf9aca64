package cadence

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"understudy/internal/model"
)

func drawDuration(t *rapid.T, name string, top time.Duration) time.Duration {
	return time.Duration(rapid.Int64Range(0, int64(top)).Draw(t, name))
}

// drawLearned lives through some cycles of any kind, so that every field is one that can happen.
func drawLearned(t *rapid.T, rpo time.Duration) *Learned {
	l := &Learned{Rate: rapid.SampledFrom([]float64{0, 1e4, 1e6, 1e8}).Draw(t, "seed rate")}
	at := noon.Add(-2 * time.Hour)
	for range rapid.IntRange(0, 12).Draw(t, "cycles") {
		interval := drawDuration(t, "interval", 2*rpo)
		capture := at
		at = at.Add(interval)
		written := rapid.Int64Range(-1, 1<<36).Draw(t, "written")
		changed := rapid.Int64Range(0, max(written, 1)).Draw(t, "changed")
		l.Look(Counters{capture.Add(interval / 8), written / 8, rapid.Int64Range(-1, 1<<34).Draw(t, "early")}, capture, rpo)
		l.Look(Counters{at, written, -1}, capture, rpo)
		l.Done(Cycle{
			TakenAt: at, Interval: interval, Written: written, Dirty: rapid.Int64Range(-1, 1<<36).Draw(t, "dirty"), Changed: changed,
			Sent: changed / 2, Fixed: drawDuration(t, "fixed", 3*time.Second), Moved: drawDuration(t, "moved", 2*rpo), Predicted: drawDuration(t, "predicted", rpo),
		}, rpo)
	}
	return l
}

func drawFull(t *rapid.T) Input {
	rpo := model.MinRPO + drawDuration(t, "rpo", 10*time.Minute)
	since := drawDuration(t, "since capture", 2*rpo)
	i := Input{
		Now: noon, RPO: rpo, Committed: true, LastCapture: noon.Add(-since), Oldest: ago(drawDuration(t, "age", 2*rpo)),
		Learned: drawLearned(t, rpo), Written: rapid.Int64Range(0, 1<<36).Draw(t, "w"), Dirty: rapid.Int64Range(-1, 1<<36).Draw(t, "q"),
		Apart: rapid.SampledFrom([]time.Duration{0, 0, rpo / 4, 10 * rpo}).Draw(t, "apart"),
		Crowd: rapid.SampledFrom([]float64{0, 0, 0.3, 0.9, 3}).Draw(t, "crowd"),
	}
	i.Learned.Look(Counters{noon, i.Written, -1}, i.LastCapture, rpo)
	return i
}

// Invariants 4, 9, 10 and 14.
func TestFullLawBoundsAndReasons(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		i := drawFull(t)
		got := Decide(i)
		require.Equal(t, got, Decide(i), "same inputs, same decision")
		require.Contains(t, []model.Binding{model.BindingSlack, model.BindingLoad, model.BindingTMin, model.BindingAllocator, model.BindingCPU}, got.Binding)
		require.NotEmpty(t, got.Reason)
		require.GreaterOrEqual(t, got.StartIn, time.Duration(0))
		require.LessOrEqual(t, got.StartIn, i.RPO)
		require.GreaterOrEqual(t, got.NextAt.Sub(i.LastCapture), scale(i.RPO, tminShare)-time.Microsecond, "no two captures closer than tmin")
		if i.terms().slack <= 0 && got.StartIn > 0 {
			require.Equal(t, model.BindingTMin, got.Binding)
		}
		if got.Binding == model.BindingAllocator {
			require.GreaterOrEqual(t, i.Now.Add(got.StartIn).Sub(*i.Oldest), i.RPO/2-time.Microsecond, "never before RPO/2 because of others")
		}
		_, err := json.Marshal(Explain(i))
		require.NoError(t, err, "no NaN, no infinity")
	})
}

// Invariants 2 and 3: more to do, or less to do it with, never starts later.
func TestFullLawMoreIsNeverLater(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		i := drawFull(t)
		i.Learned.Load.At, i.Learned.Growth.At, i.Learned.Worst.At = noon, noon, noon // what is remembered, as it is now
		more, l := i, *i.Learned
		more.Learned = &l
		what := rapid.SampledFrom([]string{"W", "Q", "R", "u", "F", "r", "older", "rpo", "share"}).Draw(t, "what")
		switch what {
		case "W":
			more.Written += rapid.Int64Range(0, 1<<36).Draw(t, "more")
		case "Q":
			if i.Dirty < 0 {
				t.Skip("a first size is news, not more")
			}
			more.Dirty += rapid.Int64Range(0, 1<<36).Draw(t, "more")
		case "R":
			l.Growth.Value += rapid.Float64Range(0, 1e9).Draw(t, "more")
		case "u":
			l.Load.Value += rapid.Float64Range(0, 1).Draw(t, "more")
		case "F":
			l.Est.Fixed += rapid.Float64Range(0, 10).Draw(t, "more")
			l.Cycles = max(l.Cycles, 1)
			if i.Learned.Cycles == 0 {
				i.Learned.Cycles, i.Learned.Est = 1, (&Learned{}).estimates()
				l.Est = i.Learned.Est
				l.Est.Fixed += 1
			}
		case "r":
			if l.Rate == 0 {
				t.Skip("unknown")
			}
			l.Rate *= rapid.Float64Range(0.01, 1).Draw(t, "less")
		case "share":
			i.Share = 1e7
			more.Share = i.Share * rapid.Float64Range(0.001, 1).Draw(t, "less")
		case "older":
			older := i.Oldest.Add(-drawDuration(t, "older", i.RPO))
			more.Oldest = &older
		case "rpo":
			more.RPO -= drawDuration(t, "smaller", i.RPO-model.MinRPO)
			if more.Period = Period(more.RPO); more.RPO < 20*time.Second && i.RPO >= 10*time.Second {
				t.Skip("the least margin and the least period do not shrink with RPO")
			}
		}
		require.LessOrEqual(t, Decide(more).StartIn, Decide(i).StartIn+time.Microsecond, what)
	})
}

// Invariant 5: whatever the counters say, resets included.
func TestChangedBytesStayWithinTheirBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawLearned(t, 30*time.Second)
		w, q := rapid.Int64Range(-1, math.MaxInt64).Draw(t, "w"), rapid.Int64Range(-1, math.MaxInt64).Draw(t, "q")
		b, known := l.known().changed(w, q, 0)
		require.False(t, math.IsNaN(b) || b < 0)
		require.Equal(t, w >= 0 || q >= 0, known)
		if w >= 0 {
			require.LessOrEqual(t, b, float64(w))
		}
		if q >= 0 {
			require.LessOrEqual(t, b, float64(q))
		}
	})
}

// Invariant 13: a pause in sampling is not a storm.
func TestAGapBetweenSamplesNeverRaisesTheGrowth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l Learned
		gap := time.Millisecond + drawDuration(t, "gap", 48*time.Hour)
		before, bytes := rapid.Int64Range(0, 1<<40).Draw(t, "before"), rapid.Int64Range(0, 1<<40).Draw(t, "bytes")
		l.Look(Counters{noon.Add(-gap), before, -1}, noon.Add(-gap-time.Hour), time.Minute)
		pace := l.Pace
		l.Look(Counters{noon, before + bytes, -1}, noon.Add(-gap-time.Hour), time.Minute)
		require.LessOrEqual(t, l.G, float64(bytes)/gap.Seconds()*(1+1e-9))
		require.LessOrEqual(t, l.Pace, max(pace, float64(bytes)/gap.Seconds())*(1+1e-9))
	})
}

func TestACounterResetIsUnknownAndNotAStorm(t *testing.T) {
	l := Learned{}
	l.Look(Counters{noon, 5 << 30, -1}, noon.Add(-time.Minute), time.Minute)
	l.Look(Counters{noon.Add(time.Second), -1, -1}, noon.Add(-time.Minute), time.Minute)
	require.Zero(t, l.G)
	l.Look(Counters{noon.Add(2 * time.Second), 4096, -1}, noon.Add(-time.Minute), time.Minute)
	require.Equal(t, 4096.0, l.G)
}

// Invariant 12: the event budget holds whatever the counters do.
func TestTheEventBudgetHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var n Notice
		now, told := noon, 0
		for range rapid.IntRange(1, 400).Draw(t, "looks") {
			now = now.Add(drawDuration(t, "later", 2*time.Second))
			var why string
			n, why = n.Next(now, rapid.SampledFrom([]int64{0, 1, 1 << 30}).Draw(t, "written"), rapid.SampledFrom([]float64{0, 1e5, 1e9, math.NaN()}).Draw(t, "pace"))
			if why != "" {
				told++
			}
		}
		require.LessOrEqual(t, float64(told), eventBurst+now.Sub(noon).Seconds()/eventRefill.Seconds()+1e-6)
	})
}

func TestAnIdleVMIsNeverTold(t *testing.T) {
	var n Notice
	for i := range 10000 {
		var why string
		n, why = n.Next(noon.Add(time.Duration(i)*time.Second), 0, 0)
		require.Empty(t, why)
	}
	_, why := n.Next(noon.Add(3*time.Hour), 4096, 4096)
	require.NotEmpty(t, why, "the first write is told at once")
}

// Invariant 1, and what is learned stays small and survives a continue-as-new unchanged.
func TestLearnedIsBoundedAndSurvivesJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		i := drawFull(t)
		for n := range 300 {
			i.Learned.Done(Cycle{
				TakenAt: noon, Interval: 17123456789, Written: int64(123456789 + 7919*n), Dirty: int64(987654321 - n*104729), Changed: int64(12345678 + n*31),
				Sent: 7654321, Fixed: time.Duration(123456789 + n*1e6), Moved: 1234567890, Predicted: 1134567890,
			}, i.RPO)
		}
		raw, err := json.Marshal(i.Learned)
		require.NoError(t, err)
		require.Less(t, len(raw), 12<<10)
		var back Learned
		require.NoError(t, json.Unmarshal(raw, &back))
		other := i
		other.Learned = &back
		require.Equal(t, Decide(i), Decide(other))
		i.Oldest = nil
		require.True(t, Decide(i).Skip, "nothing written: no capture")
		require.Equal(t, model.BindingIdle, Decide(i).Binding)
	})
}

// A limit that was lifted is not remembered as load: intervals are back within minutes, not after half-lives of the memory.
func TestALinkThatHealedIsNotHeldAgainstIt(t *testing.T) {
	const rpo = 30 * time.Second
	l := &Learned{}
	at := noon
	done := func(link float64) {
		at = at.Add(rpo / 2)
		const b = 2e6
		l.Done(Cycle{
			TakenAt: at, Interval: rpo / 2, Written: b, Dirty: b, Changed: b, Sent: b, Fixed: 300 * time.Millisecond,
			Moved: span(b / link), Predicted: span(b / link),
		}, rpo)
	}
	busy := func() float64 { return l.Load.Now(at, l.constants().memory(rpo)) }
	for range 10 {
		done(20e6)
	}
	require.Less(t, busy(), 0.1)
	for range 15 {
		done(2e5) // a hundredth of it, for some minutes
	}
	require.Greater(t, busy(), 0.4)
	for range 8 {
		done(20e6)
	}
	require.Less(t, busy(), 0.15)

	for range 4 {
		done(12e6) // other traffic takes its part
	}
	high := busy()
	for range 4 {
		done(20e6)
	}
	require.Greater(t, busy(), 0.8*high, "an ordinary swing is remembered")
}

// Invariant 6: constant writes over a constant link give a constant interval.
func TestTheFullLawIsSteady(t *testing.T) {
	for name, c := range map[string]struct {
		rpo        time.Duration
		rate, link float64
		region     float64 // bytes rewritten; 0: appends
	}{
		"ample":            {30 * time.Second, 1e6, 20e6, 0},
		"tight":            {30 * time.Second, 1e6, 1.6e6, 0},
		"just enough":      {60 * time.Second, 1e6, 1.1e6, 0},
		"rewrites, tight":  {300 * time.Second, 1e6, 0.4e6, 24e6},
		"short":            {5 * time.Second, 1e6, 5e6, 0},
		"long and ample":   {900 * time.Second, 2e5, 5e6, 0},
		"rewrites, ample":  {300 * time.Second, 1e6, 4e6, 24e6},
		"long, half a use": {600 * time.Second, 1e6, 2e6, 0},
	} {
		t.Run(name, func(t *testing.T) {
			l := &Learned{Rate: seedGuard * c.link}
			dirty := func(age float64) int64 {
				if b := c.rate * age; c.region == 0 || b < c.region {
					return int64(b)
				}
				return int64(c.region)
			}
			now, captured := noon, noon
			var gaps []float64
			h := Period(c.rpo)
			for range 40 {
				oldest := captured
				early := captured.Add(c.rpo / 8)
				l.Look(Counters{early, int64(c.rate * c.rpo.Seconds() / 8), dirty(c.rpo.Seconds() / 8)}, captured, c.rpo)
				now = maxTime(now, early)
				in := Input{RPO: c.rpo, Committed: true, LastCapture: captured, Oldest: &oldest, Learned: l}
				for {
					age := now.Sub(captured).Seconds()
					in.Now, in.Written, in.Dirty = now, int64(c.rate*age), dirty(age)
					l.Look(Counters{now, in.Written, in.Dirty}, captured, c.rpo)
					d := Decide(in)
					if d.StartIn == 0 {
						break
					}
					now = now.Add(min(d.StartIn, h))
				}
				interval := now.Sub(captured)
				b := dirty(interval.Seconds())
				moved := span(float64(b) / c.link)
				l.Done(Cycle{
					TakenAt: now, Interval: interval, Written: in.Written, Dirty: b, Changed: b, Sent: b, Fixed: 300 * time.Millisecond, Moved: moved, Predicted: in.Moves(),
				}, c.rpo)
				require.Less(t, interval+moved+300*time.Millisecond, c.rpo, "exposure")
				gaps = append(gaps, interval.Seconds())
				captured, now = now, now.Add(moved+300*time.Millisecond)
			}
			low, high := math.Inf(1), 0.0
			for _, g := range gaps[10:] {
				low, high = min(low, g), max(high, g)
			}
			require.Less(t, high/low, 1.05, "%v", gaps)
		})
	}
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func TestGearsChangeUpAtOnceAndDownLate(t *testing.T) {
	var b Gearbox
	b = b.Next(time.Minute)
	require.Equal(t, GearStages, b.Gear)
	for range 5 {
		b = b.Next(4 * time.Second)
	}
	require.Equal(t, GearAgent, b.Gear)
	for range 5 {
		b = b.Next(12 * time.Second) // beyond 10 s, but not beyond 13
	}
	for range 50 {
		b = b.Next(12 * time.Second)
	}
	require.Equal(t, GearAgent, b.Gear)
	for range 9 {
		b = b.Next(20 * time.Second)
	}
	require.Equal(t, GearAgent, b.Gear)
	for range 10 {
		b = b.Next(20 * time.Second)
	}
	require.Equal(t, GearMerged, b.Gear)
}

func TestDegradationGoesOneStepAtATimeAndComesBack(t *testing.T) {
	var l Ladder
	l = l.Decided(false).Decided(true).Decided(false)
	require.Equal(t, Full, l.Step, "two in a row")
	for i := range 20 {
		before := l.Step
		l = l.Decided(false)
		require.LessOrEqual(t, l.Step-before, Step(1), "decision %d", i)
	}
	require.Equal(t, GoldViolated, l.Step)
	for range 4 {
		l = l.Verified(0.5)
	}
	l = l.Verified(0.1)
	require.Equal(t, GoldViolated, l.Step)
	for range 25 {
		l = l.Verified(0.5)
	}
	require.Equal(t, Full, l.Step)
}
