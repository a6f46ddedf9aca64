package lease

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/model"
)

func TestOneRefusalIsNoOrderToStopTwoAre(t *testing.T) {
	w := leased(t)
	w.claim(2, 1, "host-b")
	w.run(time.Minute)
	require.Equal(t, 1, w.running(), "a claim that cannot be finished stops nobody")
	w.seal(2, "host-b")
	w.run(w.terms.Renew + w.step)
	require.Zero(t, w.running(), "refused by both it does not wait for its deadline")

	w.claim(3, 1, "host-a") // rolled back
	w.mustPermit(3, "host-a", nil)
	w.mustStart(3, "host-a")
	require.Equal(t, 1, w.running(), "and it goes on under a new generation")
}

func TestIsolatedFromAllItFreezesAndGoesOnUnderTheSameGeneration(t *testing.T) {
	w := leased(t)
	w.isolate("host-a")
	w.run(10 * time.Second)
	require.Equal(t, 1, w.running())
	w.run(time.Minute)
	require.Zero(t, w.running())
	w.heal()
	w.run(2 * w.terms.Renew)
	require.Equal(t, 1, w.running())
	require.Equal(t, 1, w.worst)
}

func TestEitherGrantorIsEnough(t *testing.T) {
	w := leased(t)
	for _, away := range []string{"host-b", control} {
		w.part("host-a", away)
		w.run(time.Minute)
		require.Equal(t, 1, w.running())
		w.heal()
		w.run(w.terms.Renew)
	}
}

func TestAnAgentThatIsBackGoesOnRenewing(t *testing.T) {
	w := leased(t)
	w.hosts["host-a"].holder = nil
	w.run(5 * time.Second)
	w.restart("host-a")
	w.run(time.Minute)
	require.Equal(t, 1, w.running())
	held, err := w.hosts["host-a"].holder.View()
	require.NoError(t, err)
	require.Len(t, held, 1)
	require.Positive(t, held[0].Left)
}

func TestAGrantorThatWasReinstalledCountsForNothing(t *testing.T) {
	w := leased(t)
	w.part("host-a", control)
	w.hosts["host-b"].state.id = "99999999-2222-3333-4444-555555555555"
	w.run(time.Minute)
	require.Zero(t, w.running())
}

func TestAnAgentThatHungBeforeTheStartReadsAgain(t *testing.T) {
	w := leased(t)
	a := w.hosts["host-a"]
	a.qemu = nil
	require.NoError(t, a.holder.Take(w.ctx, w.hold("host-a", 1, model.ModeLeased, "host-b")))
	require.NoError(t, a.holder.MayRun(vm.UUID, 1))
	w.isolate("host-a")
	w.run(w.terms.TTL + time.Second)
	require.Equal(t, model.StaleGeneration, model.KindOf(a.holder.MayRun(vm.UUID, 1)), "the grant ran out")
	require.False(t, a.start(), "and past that there is the gate")
}

func TestRunRenewsUntilItsEnd(t *testing.T) {
	w := leased(t)
	a := w.hosts["host-a"]
	ctx, cancel := context.WithCancel(w.ctx)
	ended := make(chan struct{})
	go func() { defer close(ended); a.holder.Run(ctx) }()
	before := a.clock.Now()
	for range 5 {
		a.clock.Advance(w.terms.Renew)
	}
	require.Eventually(t, func() bool {
		held, err := a.holder.View()
		return err == nil && held[0].Left > int64(w.terms.TTL-w.terms.Renew)
	}, 5*time.Second, time.Millisecond)
	require.Equal(t, 5*w.terms.Renew, a.clock.Now().Sub(before))
	cancel()
	<-ended
}

func FuzzDecodeRenew(f *testing.F) {
	good, err := EncodeRenew(RenewIn{Host: "host-a", Instance: "i", BootID: "b", Asks: []Ask{{VM: vm.UUID, Generation: 1, Nonce: 7}}})
	require.NoError(f, err)
	f.Add(good)
	f.Add([]byte(`{"host":"host-a","asks":[{"vm":"../x","generation":1}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		in, err := DecodeRenew(b)
		if err != nil {
			require.Equal(t, model.InvalidArgument, model.KindOf(err))
			return
		}
		for _, a := range in.Asks {
			require.True(t, model.ValidUUID(a.VM))
		}
		_, _ = DecodeAnswer(b)
	})
}
