package replicate_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/model"
	"understudy/internal/replicate"
)

func TestARunFollowsTheRateItsLaneIsGivenMeanwhile(t *testing.T) {
	const size, slow, burst = 32 << 20, 4 << 20, 512 << 10
	p, s := primary{"vda": filled(t, size)}, &standby{}
	req := request(1, snap("vda", size, model.ModeFull))
	req.Lane = replicate.NewLane(0)
	done := make(chan error, 1)
	c := s.serve(t)
	go func() {
		_, err := replicate.Run(ctx, p.open, c, req, nil)
		done <- err
	}()
	require.Eventually(t, func() bool {
		sent, waited := req.Lane.Used()
		require.Zero(t, sent, "nothing passes yet")
		return waited > 50*time.Millisecond
	}, 30*time.Second, 10*time.Millisecond)

	begun := time.Now()
	req.Lane.Set(slow)
	require.Eventually(t, func() bool {
		sent, _ := req.Lane.Used()
		require.LessOrEqual(t, float64(sent), slow*time.Since(begun).Seconds()+burst)
		return sent >= slow/2
	}, 10*time.Second, 10*time.Millisecond)
	req.Lane.Set(-1) // the others have ended
	require.NoError(t, <-done)
	require.Less(t, time.Since(begun), 7*time.Second, "at the slow rate it takes eight seconds")
	requireSame(t, p, s)
}

func TestARunThatIsGrantedNothingCanBeEnded(t *testing.T) {
	p, s := primary{"vda": filled(t, 1<<20)}, &standby{}
	req := request(1, snap("vda", 1<<20, model.ModeFull))
	req.Lane = replicate.NewLane(0)
	why := errors.New("the VM moved")
	run, end := context.WithCancelCause(ctx)
	time.AfterFunc(50*time.Millisecond, func() { end(why) })
	_, err := replicate.Run(run, p.open, s.serve(t), req, nil)
	require.ErrorIs(t, err, why)
}
