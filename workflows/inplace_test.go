package workflows

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/model"
)

func TestAVMThatDiesOnAHostThatIsWellIsStartedAgainThereAndLosesNothing(t *testing.T) {
	w, p := newWorld(t).connect(), policy()
	p.RecoverInPlace = 1
	w.at(61*time.Second, w.crashVM)
	var st contract.ProtectState
	w.at(2*time.Minute, func() { st = w.state() })
	w.protect(protectIn(p), 2*time.Minute+time.Second)
	require.Equal(t, 1, w.count("restart"))
	require.Zero(t, w.count("claim"), "no takeover is needed")
	require.Equal(t, hostA, st.Primary)
	require.EqualValues(t, 1, st.Generation)
	require.True(t, w.hosts[hostA].running)
	require.Equal(t, model.PhaseProtected, st.Phase)
	require.EqualValues(t, 1, st.Totals.Restarts)
	require.Empty(t, st.Alerts)
	resyncs := 0
	for _, in := range w.taken {
		if in.ForceResync != "" {
			resyncs++
		}
	}
	require.Equal(t, 1, resyncs, "bitmaps of a QEMU that died are not trusted")
}

func TestAVMThatKeepsDyingIsMoved(t *testing.T) {
	w, p := newWorld(t).connect(), policy()
	p.RecoverInPlace = 1
	w.at(61*time.Second, w.crashVM)
	w.at(80*time.Second, w.crashVM)
	var st contract.ProtectState
	w.at(3*time.Minute, func() { st = w.state() })
	w.protect(protectIn(p), 3*time.Minute+time.Second)
	require.Equal(t, 1, w.count("restart"))
	require.Equal(t, hostB, st.Primary)
}

func TestAVMThatCannotBeStartedAgainWhereItWasIsMoved(t *testing.T) {
	w, p := newWorld(t).connect(), policy()
	p.RecoverInPlace = 2
	w.failNext("restart", refusal(model.Internal), refusal(model.Internal), refusal(model.Internal))
	w.at(61*time.Second, w.crashVM)
	var st contract.ProtectState
	w.at(3*time.Minute, func() { st = w.state() })
	w.protect(protectIn(p), 3*time.Minute+time.Second)
	require.Equal(t, 1, w.count("restart"))
	require.Equal(t, hostB, st.Primary)
	require.Contains(t, st.Failover.Reason, "could not be started again")
}

// The host is silent: nobody there can be asked to start anything, and the usual ladder decides.
func TestASilentHostIsNotAskedToStartAgain(t *testing.T) {
	w, p := newWorld(t).connect(), policy()
	p.RecoverInPlace = 1
	w.at(61*time.Second, w.loseHost)
	var st contract.ProtectState
	w.at(3*time.Minute, func() { st = w.state() })
	w.protect(protectIn(p), 3*time.Minute+time.Second)
	require.Zero(t, w.count("restart"))
	require.Equal(t, hostB, st.Primary)
}
