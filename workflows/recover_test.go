package workflows

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// lost is a world whose Temporal database is gone: the record and the hosts are all there is.
func lost(t *testing.T) *world {
	w := newWorld(t).connect()
	w.guards = 2
	ctx := context.Background()
	_, err := w.records.Begin(ctx, theVM, 3, hostA)
	require.NoError(t, err)
	require.NoError(t, w.records.Keep(ctx, theVM.UUID, hostB, policy()))
	w.hosts[hostA].floor, w.hosts[hostB].floor = 3, 3
	for seq := model.Seq(7); seq <= 9; seq++ {
		at := w.now().Add(-time.Minute)
		w.hosts[hostB].points = append(w.hosts[hostB].points, contract.PointView{PointRef: model.PointRef{Generation: 3, Seq: seq}, TakenAt: at, VerifiedAt: at, Primary: hostA})
	}
	return w
}

func (w *world) recovered(end time.Duration) contract.ProtectState {
	w.t.Helper()
	rec := w.record()
	var st contract.ProtectState
	w.at(end-time.Second, func() { st = w.state() })
	w.protect(contract.ProtectIn{
		Spec:  contract.ProtectSpec{VM: rec.VM, Primary: rec.PermitHost, Standby: rec.Standby, Policy: *rec.Policy},
		State: recoveredState(w.now(), rec),
	}, end)
	return st
}

func TestAProtectionIsBegunAgainFromItsRecordAndItsPoints(t *testing.T) {
	w := lost(t)
	st := w.recovered(time.Minute)
	require.Equal(t, model.PhaseProtected, st.Phase)
	require.EqualValues(t, 3, st.Generation)
	require.Equal(t, model.Seq(9), w.taken[0].Parent.Seq, "the chain goes on")
	require.Equal(t, "the protection was recovered from its record", w.taken[0].ForceResync)
	require.GreaterOrEqual(t, w.taken[0].Seq, model.Seq(20), "numbers that were on their way are not used again")
	require.True(t, w.hosts[hostA].running)
	require.Equal(t, model.ModeLeased, st.Lease.Mode)
	require.Zero(t, w.count("claim"))
}

func TestATakeoverThatNobodyDrivesAnyMoreIsGivenBack(t *testing.T) {
	w := lost(t)
	_, err := w.records.Claim(context.Background(), theVM.UUID, 4, 3, hostB, "failover/lost/4")
	require.NoError(t, err)
	w.hosts[hostA].running, w.hosts[hostA].stopped = false, true // it had surrendered already
	st := w.recovered(time.Minute)
	rec := w.record()
	require.False(t, rec.Open())
	require.Equal(t, hostA, rec.PermitHost)
	require.EqualValues(t, 5, st.Generation)
	require.True(t, w.hosts[hostA].running, "what was stopped for it is started again")
	require.Equal(t, model.PhaseProtected, st.Phase)
}

func TestARecoveredProtectionWaitsForAStandbyThatIsNotThere(t *testing.T) {
	w := lost(t)
	w.hosts[hostB].cutOff = true
	var early contract.ProtectState
	w.at(20*time.Second, func() { early = w.state() })
	w.at(30*time.Second, func() { w.hosts[hostB].cutOff = false })
	st := w.recovered(4 * time.Minute)
	require.Contains(t, alertNames(early), contract.AlertStandbyNotReady)
	require.Equal(t, model.PhaseProtected, st.Phase)
	require.Empty(t, st.Alerts)
}

// The database is new: the protection is there before the agent of its primary has its watch started.
func TestARecoveredProtectionIsWatchedAsSoonAsThereIsAWatch(t *testing.T) {
	w := lost(t)
	w.unwatched[hostA] = true
	var early contract.ProtectState
	w.at(30*time.Second, func() { early = w.state(); w.unwatched[hostA] = false })
	st := w.recovered(2 * time.Minute)
	require.Equal(t, []string{unwatchedAlert(hostA)}, alertNames(early))
	require.Equal(t, model.PhaseProtected, early.Phase, "points are made meanwhile")
	require.Empty(t, st.Alerts)
	require.Greater(t, w.attaching[hostA], 1)
	require.Equal(t, 1, w.attaching[hostB], "the other one knows already")
}
