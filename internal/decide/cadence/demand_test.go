package cadence

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/model"
)

func TestDemandIsThatOfTheUsualCycleAndNotOfABurst(t *testing.T) {
	const rpo = 30 * time.Second
	l, at := &Learned{}, noon
	cycle := func(n int, every time.Duration, sent int64) {
		for range n {
			at = at.Add(every)
			l.Done(Cycle{TakenAt: at, Interval: every, Sent: sent, Changed: 2 * sent, Written: -1, Dirty: -1, Moved: time.Second}, rpo)
		}
	}
	cycle(fewSamples-1, rpo/2, 1<<20)
	require.Zero(t, l.Demand(), "too little was seen")
	cycle(20, rpo/2, 1<<20)
	require.InDelta(t, 1<<20, l.Demand(), 1024)
	cycle(10, rpo/2, 100<<20)
	require.InDelta(t, 1<<20, l.Demand(), 1024, "a burst reserves nothing")
	cycle(30, rpo/2, 4<<20)
	require.InDelta(t, 4<<20, l.Demand(), 4096, "what lasts does")
	cycle(40, rpo/4, 1<<20)
	require.InDelta(t, 2<<20, l.Demand(), 4096, "half of the interval, half of the bytes: at most")
	cycle(40, rpo, 1<<20)
	require.InDelta(t, 1<<20, l.Demand(), 1024, "twice the interval: no less, as far as is known")
}

func TestTheFirstCaptureIsMadeAtTheVMsOwnPhase(t *testing.T) {
	i := in()
	i.Learned, i.Phase = &Learned{Rate: 1e9}, 12*time.Second
	got := Decide(i)
	require.Equal(t, model.BindingAllocator, got.Binding)
	require.Equal(t, 3*time.Second, got.StartIn, "12 s after the write of 9 s ago")
	i.Phase = 29 * time.Second
	require.Equal(t, model.BindingSlack, Decide(i).Binding, "never later than is safe")
}
