package cadence

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"understudy/internal/model"
)

var noon = time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) *time.Time {
	t := noon.Add(-d)
	return &t
}

func in() Input {
	return Input{Now: noon, RPO: 30 * time.Second, Committed: true, LastCapture: noon.Add(-10 * time.Second), Oldest: ago(9 * time.Second)}
}

func TestWhatDecidesTheStart(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(*Input)
		binding model.Binding
		skip    bool
		wait    time.Duration // -1: not looked at
	}{
		"paused by a person":                  {func(i *Input) { i.Paused, i.Requested = true, true }, model.BindingPaused, true, 15 * time.Second},
		"the VM is off":                       {func(i *Input) { i.Hindered, i.Requested = "off", true }, model.BindingWaiting, true, 15 * time.Second},
		"a person asked, even after failures": {func(i *Input) { i.Requested, i.RetryAt = true, ago(-time.Minute) }, model.BindingRequest, false, 0},
		"the last cycle failed":               {func(i *Input) { i.RetryAt = ago(-4 * time.Second) }, model.BindingRetry, false, 4 * time.Second},
		"the back-off is over":                {func(i *Input) { i.RetryAt = ago(time.Second) }, model.BindingSlack, false, -1},
		"no point yet":                        {func(i *Input) { i.Committed = false }, model.BindingSeed, false, 0},
		"nothing written":                     {func(i *Input) { i.Oldest = nil }, model.BindingIdle, true, 15 * time.Second},
		// 75 % of 30 s minus 9 s of age minus the first guess of a cycle (1 s fixed, guarded by 2).
		"slack":                              {func(*Input) {}, model.BindingSlack, false, 11500 * time.Millisecond},
		"late already: at once":              {func(i *Input) { i.Oldest = ago(40 * time.Second) }, model.BindingSlack, false, 0},
		"captures keep a distance":           {func(i *Input) { i.Oldest, i.LastCapture = ago(40*time.Second), noon.Add(-time.Second) }, model.BindingTMin, false, 2 * time.Second},
		"under a quarter of a second is now": {func(i *Input) { i.Oldest = ago(20300 * time.Millisecond) }, model.BindingSlack, false, 0},
		"a busy link starts earlier": {func(i *Input) {
			for s := 10; s > 0; s-- {
				i.Samples = append(i.Samples, Sample{TakenAt: noon.Add(-time.Duration(s) * 10 * time.Second), Bytes: 64 << 20, Took: 8 * time.Second})
			}
			i.Dirty = 1 << 20
		}, model.BindingLoad, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			i := in()
			c.change(&i)
			got := Decide(i)
			require.Equal(t, c.binding, got.Binding, got.Reason)
			require.Equal(t, c.skip, got.Skip)
			if c.wait >= 0 {
				require.Equal(t, c.wait, got.StartIn)
			}
			require.Equal(t, noon.Add(got.StartIn), got.NextAt)
		})
	}
}

func TestBackoffDoublesAndStaysWithinHalfTheTarget(t *testing.T) {
	for n, want := range []time.Duration{1, 1, 2, 4, 8, 10, 10} {
		require.Equal(t, want*time.Second, Backoff(n, 20*time.Second), "%d failures", n)
	}
	require.Equal(t, 30*time.Second, Backoff(1000, time.Hour))
	require.Equal(t, time.Second, Backoff(9, 2*time.Second))
}

func drawInput(t *rapid.T) Input {
	d := func(name string, top time.Duration) time.Duration {
		return time.Duration(rapid.Int64Range(0, int64(top)).Draw(t, name))
	}
	rpo := model.MinRPO + d("rpo", time.Hour)
	i := Input{
		Now: noon, RPO: rpo, Committed: true, LastCapture: noon.Add(-d("since capture", 2*rpo)), Oldest: ago(d("age", 3*rpo)),
		Dirty: rapid.Int64Range(-1, 1<<40).Draw(t, "dirty"), WriteRate: rapid.Float64Range(0, 1e10).Draw(t, "rate"),
	}
	at := noon.Add(-time.Hour)
	for range rapid.IntRange(0, 20).Draw(t, "samples") {
		at = at.Add(d("apart", time.Minute))
		i.Samples = append(i.Samples, Sample{TakenAt: at, Bytes: rapid.Int64Range(0, 1<<38).Draw(t, "bytes"), Took: d("took", 10*time.Minute)})
	}
	return i
}

// Every decision is within its bounds, names one binding constraint and is the same for the same inputs.
func TestLawBoundsAndReasons(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		i := drawInput(t)
		got := Decide(i)
		require.GreaterOrEqual(t, got.StartIn, time.Duration(0))
		require.LessOrEqual(t, got.StartIn, i.RPO)
		require.Contains(t, []model.Binding{model.BindingSlack, model.BindingLoad, model.BindingTMin}, got.Binding)
		require.NotEmpty(t, got.Reason)
		require.False(t, got.Skip)
		require.Equal(t, got, Decide(i))
		since := got.NextAt.Sub(i.LastCapture)
		require.GreaterOrEqual(t, since, scale(i.RPO, tminShare), "no two captures closer than tmin")
		if slackGone := i.Now.Sub(*i.Oldest) >= scale(i.RPO, AtRisk); slackGone && got.StartIn > 0 {
			require.Equal(t, model.BindingTMin, got.Binding, "once slack is gone only the least distance may delay a start")
		}
	})
}

// More to do never starts later: more dirty, written faster, older, or a smaller target.
func TestLawMoreIsNeverLater(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		i := drawInput(t)
		more := i
		switch rapid.IntRange(0, 3).Draw(t, "what") {
		case 0:
			more.Dirty = max(i.Dirty, 0) + rapid.Int64Range(0, 1<<40).Draw(t, "more dirty")
		case 1:
			more.WriteRate += rapid.Float64Range(0, 1e10).Draw(t, "faster")
		case 2:
			older := i.Oldest.Add(-time.Duration(rapid.Int64Range(0, int64(i.RPO)).Draw(t, "older")))
			more.Oldest = &older
		case 3:
			more.RPO -= time.Duration(rapid.Int64Range(0, int64(i.RPO-model.MinRPO)).Draw(t, "smaller"))
		}
		require.LessOrEqual(t, Decide(more).StartIn, Decide(i).StartIn)
	})
}

// Whatever the counters say, estimates stay finite and positive.
func TestLawEstimatesAreSane(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		i := drawInput(t)
		e := NewEstimate(i.Samples)
		require.Positive(t, e.Rate)
		require.False(t, math.IsNaN(e.Load) || e.Load < 0 || e.Load > 1)
		require.GreaterOrEqual(t, e.Duration(i.Dirty), time.Duration(0))
		require.GreaterOrEqual(t, e.AgeLimit(), 0.25)
		require.LessOrEqual(t, e.AgeLimit(), 1.0)
		require.GreaterOrEqual(t, e.Duration(1<<40), e.Duration(1<<20))
	})
}

// A guest that writes at a constant rate over a constant link gets a constant distance, and its exposure never passes the
// target.
func TestConstantWritesGiveAConstantDistance(t *testing.T) {
	const rpo, rate, link = 30 * time.Second, float64(1 << 20), float64(20 << 20)
	now, captured := noon, noon
	var samples []Sample
	var distances []time.Duration
	for range 30 {
		oldest := captured.Add(time.Second)
		start := Decide(Input{
			Now: now, RPO: rpo, Committed: true, LastCapture: captured, Oldest: &oldest, WriteRate: rate,
			Dirty: int64(rate * now.Sub(oldest).Seconds()), Samples: samples,
		})
		at := now.Add(start.StartIn)
		bytes := int64(rate * at.Sub(oldest).Seconds())
		took := 800*time.Millisecond + time.Duration(float64(bytes)/link*float64(time.Second))
		require.Less(t, at.Add(took).Sub(oldest), rpo, "exposure")
		samples = append(samples, Sample{TakenAt: at, Bytes: bytes, Took: took})
		samples = samples[max(0, len(samples)-20):]
		distances = append(distances, at.Sub(captured))
		captured, now = at, at.Add(took)
	}
	for _, d := range distances[12:] {
		require.InEpsilon(t, distances[len(distances)-1].Seconds(), d.Seconds(), 0.05)
	}
	require.Greater(t, distances[29], rpo/2, "the wait is used")
}
