package agent

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// A VM that asks as often as it can is held to its hour and to one signal a second.
func TestNoHourHasMoreSignalsThanTheBudget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rpo := time.Duration(rapid.IntRange(2, 3600).Draw(t, "rpo_s")) * time.Second
		step := time.Duration(rapid.IntRange(50, 5000).Draw(t, "step_ms")) * time.Millisecond
		pause := time.Duration(rapid.IntRange(0, 7200).Draw(t, "pause_s")) * time.Second
		var b budget
		var sent []time.Time
		now := t0
		b.spend(now, rpo, false)
		sent = append(sent, now)
		now = now.Add(pause)
		for end := now.Add(2 * time.Hour); now.Before(end); now = now.Add(step) {
			if b.spend(now, rpo, false) {
				require.GreaterOrEqual(t, now.Sub(sent[len(sent)-1]), signalGap)
				sent = append(sent, now)
			}
		}
		first := 0
		for last := range sent {
			for sent[last].Sub(sent[first]) >= time.Hour {
				first++
			}
			require.LessOrEqual(t, float64(last-first+1), anHour(rpo)+1)
		}
	})
}

func TestARateChangeLeavesTokensForFirstWrites(t *testing.T) {
	var b budget
	now, spent := t0, 0
	for range 200 {
		now = now.Add(signalGap)
		if b.spend(now, time.Minute, true) {
			spent++
		}
	}
	require.Less(t, spent, 200)
	require.True(t, b.spend(now.Add(signalGap), time.Minute, false))
}

func TestOneBurstIsNoTrend(t *testing.T) {
	tr := trend{told: 1 << 20}
	require.False(t, tr.changed(10<<20))
	require.False(t, tr.changed(1<<20), "it went as it came")
	require.False(t, tr.changed(10<<20))
	require.True(t, tr.changed(9<<20))
	tr.tell(9 << 20)
	require.False(t, tr.changed(9<<20))
	quiet := trend{}
	require.False(t, quiet.changed(1000) || quiet.changed(30000), "nothing matters below the floor")
}
