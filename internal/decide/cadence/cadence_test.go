package cadence

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
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
		"slack":                               {func(*Input) {}, model.BindingSlack, false, -1},
		"late already: at once":               {func(i *Input) { i.Oldest = ago(40 * time.Second) }, model.BindingLoad, false, 0},
		"captures keep a distance":            {func(i *Input) { i.Oldest, i.LastCapture = ago(40*time.Second), noon.Add(-time.Second) }, model.BindingTMin, false, 2 * time.Second},
		"a busy link starts earlier":          {func(i *Input) { i.Learned = &Learned{Rate: 1e8, Load: Peak{0.8, noon}} }, model.BindingLoad, false, -1},
		"others use the link":                 {func(i *Input) { i.Crowd = 0.5 }, model.BindingAllocator, false, 7500 * time.Millisecond}, // 0.55 of 30 s
		"the CPU budget keeps captures apart, though the link is busy": {func(i *Input) {
			i.Learned, i.Apart = &Learned{Rate: 1e8, Load: Peak{0.8, noon}}, 22*time.Second
		}, model.BindingCPU, false, 12 * time.Second},
		"but never beyond what the target allows": {func(i *Input) {
			i.Learned, i.Apart = &Learned{Rate: 1e8, Load: Peak{0.8, noon}}, time.Hour
		}, model.BindingCPU, false, -1},
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

// What is not known makes the law careful, not blind: without anything learned it plans within the target all the same.
func TestNothingLearnedIsCareful(t *testing.T) {
	i := in()
	got := Decide(i)
	require.Equal(t, model.BindingSlack, got.Binding)
	require.Less(t, got.NextAt.Sub(*i.Oldest), 28*time.Second)
	require.Equal(t, got, Explain(i).Cadence)
	i.Apart = time.Hour
	require.Equal(t, got.StartIn, Decide(i).StartIn, "a CPU budget does not delay what the target needs")
}
