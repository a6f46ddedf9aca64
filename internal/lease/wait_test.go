package lease

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"understudy/internal/lease/leasetest"
	"understudy/internal/model"
)

func TestTheWaitOfEveryLevelIsTheOneOfTheInequality(t *testing.T) {
	for level, want := range map[int]struct{ least, wait time.Duration }{
		0: {0, 0},
		1: {17321500 * time.Microsecond, 18 * time.Second},
		2: {21361500 * time.Microsecond, 22 * time.Second},
		3: {21361500 * time.Microsecond, 22 * time.Second},
	} {
		terms := model.DefaultTerms(level)
		require.NoError(t, terms.Validate())
		require.InDelta(t, want.least.Seconds(), terms.Least().Seconds(), 1e-6, "level %d", level)
		require.Equal(t, want.wait, terms.Wait(), "level %d", level)
	}
	short := model.LeaseTerms{TTL: 8 * time.Second, Renew: 1500 * time.Millisecond, DStop: model.GuardDStop, TWd: model.GuardWatchdog, GuardLevel: 1}
	require.NoError(t, short.Validate())
	require.Equal(t, 11*time.Second, short.Wait())
	short.Renew = 3 * time.Second
	require.Equal(t, model.InvalidArgument, model.KindOf(short.Validate()))
}

// Whatever the terms and however wrong both clocks are within their bound: the holder was stopped before the target's wait
// is over.
func TestLawTheWaitOutlastsTheHolder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		terms := model.LeaseTerms{
			TTL:        time.Duration(rapid.Int64Range(int64(2*time.Second), int64(5*time.Minute)).Draw(rt, "ttl")),
			DStop:      time.Duration(rapid.Int64Range(1, int64(30*time.Second)).Draw(rt, "d_stop")),
			TWd:        time.Duration(rapid.Int64Range(0, int64(60*time.Second)).Draw(rt, "t_wd")),
			GuardLevel: rapid.IntRange(1, 3).Draw(rt, "level"),
		}
		holder := rapid.Float64Range(1/(1+model.LeaseRho), 1+model.LeaseRho).Draw(rt, "holder's rate")
		target := rapid.Float64Range(1/(1+model.LeaseRho), 1+model.LeaseRho).Draw(rt, "target's rate")
		stopped := float64(terms.TTL)/holder + float64(terms.DStop)
		if terms.GuardLevel >= 2 {
			stopped = max(stopped, float64(terms.TTL)/holder+float64(terms.TWd+time.Second))
		}
		require.GreaterOrEqual(rt, float64(terms.Wait())/target, stopped-1)
	})
}

func TestTheSystemClockWaitsUntilAnInstantOrAnEnd(t *testing.T) {
	c, err := SystemClock()
	require.NoError(t, err)
	require.NotEmpty(t, c.BootID())
	until := c.Now().Add(30 * time.Millisecond)
	require.NoError(t, c.Wait(context.Background(), until))
	require.GreaterOrEqual(t, c.Now(), until)

	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Wait(ctx, c.Now().Add(time.Hour)) }()
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
}

func TestAWaitThatIsOvertakenByANewerAttemptIsNoEvidence(t *testing.T) {
	clock := leasetest.NewClock("boot")
	state, err := OpenState(t.TempDir(), "host-b")
	require.NoError(t, err)
	h := NewHolder(HolderOptions{Host: "host-b", State: state, Clock: clock, Terms: func() model.LeaseTerms { return model.DefaultTerms(0) }})
	_, err = h.AwaitLease(context.Background(), vm, 2, "try-2", 0)
	require.Equal(t, model.FenceUnconfirmed, model.KindOf(err), "no wait proves anything without a guard")
	_, err = h.AwaitLease(context.Background(), vm, 2, "try-2", time.Second)
	require.Equal(t, model.StaleGeneration, model.KindOf(err), "it was never sealed here")

	_, err = h.Seal(context.Background(), vm, 2, "try-2")
	require.NoError(t, err)
	over := make(chan error, 1)
	go func() {
		_, err := h.AwaitLease(context.Background(), vm, 2, "try-2", 22*time.Second)
		over <- err
	}()
	_, err = h.Seal(context.Background(), vm, 3, "try-3")
	require.NoError(t, err)
	clock.Advance(time.Minute)
	require.Equal(t, model.StaleGeneration, model.KindOf(<-over))
}
