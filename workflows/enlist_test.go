package workflows

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/decide/mode"
	"understudy/internal/model"
)

// memo is what a protection says of itself to whoever lists many.
type memo struct {
	now     contract.Now
	listed  contract.Listed
	writes  int
	renewed int // of the seldom changing part
}

func (w *world) keepMemo() {
	w.env.OnUpsertMemo(mock.Anything).Return(nil).Run(func(args mock.Arguments) {
		said := args.Get(0).(map[string]any)
		w.memo.writes++
		w.memo.now = said[contract.MemoNow].(contract.Now)
		if l, ok := said[contract.MemoListed].(contract.Listed); ok {
			w.memo.listed, w.memo.renewed = l, w.memo.renewed+1
		}
	})
}

// honest holds what a list would show against the truth, at any moment of any story.
func (w *world) honest(st contract.ProtectState) {
	w.t.Helper()
	n := w.memo.now
	if !n.Plain || !w.now().Before(n.Until) {
		return // the protection is asked
	}
	said := w.memo.listed.Describe(n).State
	require.Equal(w.t, st.Told, said.Told)
	require.Equal(w.t, [...]any{st.Phase, st.Primary, st.Standby, st.Generation, st.Policy, st.StandbyReady, st.Off, st.Paused},
		[...]any{said.Phase, said.Primary, said.Standby, said.Generation, said.Policy, said.StandbyReady, said.Off, said.Paused})
	require.Equal(w.t, [...]any{st.Committed, st.Points, st.Totals.Cycles, st.Totals.Violations, st.Warnings, st.Admission, st.Lease, st.Tests},
		[...]any{said.Committed, said.Points, said.Totals.Cycles, said.Totals.Violations, said.Warnings, said.Admission, said.Lease, said.Tests})
	require.Equal(w.t, st.Failover, said.Failover)
	require.Equal(w.t, st.Rescue, said.Rescue)
	require.Nil(w.t, st.InFlight)
	require.Empty(w.t, st.Alerts)
	require.Equal(w.t, st.Recent[len(st.Recent)-1], said.Recent[0])
	near := st.Policy.RPO / 10
	require.WithinDuration(w.t, st.Cadence.NextAt, said.Cadence.NextAt, near)
	require.Equal(w.t, st.Unreplicated == nil, said.Unreplicated == nil)
	if st.Unreplicated != nil {
		require.False(w.t, st.Unreplicated.Before(*said.Unreplicated), "an exposure never seems younger than it is")
		require.WithinDuration(w.t, *st.Unreplicated, *said.Unreplicated, near)
	}
	seen := mode.Seen{OldestWrite: said.Unreplicated, OnPlan: said.OnPlan()}
	_, state := mode.Promise(seen, st.Policy.RPO, w.now())
	if st.Policy.Calendar == nil {
		require.Equal(w.t, model.RPOMet, state)
	}
}

func TestAListNeedsNoQueryOfAProtectionThatIsWell(t *testing.T) {
	w := newWorld(t)
	asked, looks := 0, 0
	for d := time.Minute; d < 10*time.Minute; d += 700 * time.Millisecond {
		w.at(d, func() {
			st := w.state()
			looks++
			if n := w.memo.now; st.InFlight == nil && (!n.Plain || !w.now().Before(n.Until)) {
				asked++
			}
		})
	}
	var st contract.ProtectState
	w.at(10*time.Minute, func() { st = w.state() })
	w.protect(protectIn(policy()), 10*time.Minute+time.Second)
	require.Less(t, asked, looks/4, "between its cycles the memo is enough; a loaded machine plans more carefully")
	require.Greater(t, st.Totals.Cycles, int64(25))
	require.LessOrEqual(t, int64(w.memo.writes), st.Totals.Cycles+1, "one event a cycle")
	require.LessOrEqual(t, w.memo.renewed, 6, "what changes seldom is not written with every cycle")
	now, err := json.Marshal(w.memo.now)
	require.NoError(t, err)
	listed, err := json.Marshal(w.memo.listed)
	require.NoError(t, err)
	require.Less(t, len(now), 1500)
	t.Logf("%d writes (%d whole ones) in %d cycles, %d and %d bytes", w.memo.writes, w.memo.renewed, st.Totals.Cycles, len(now), len(listed))
}

func TestWhatAPersonAskedForIsInTheMemoWhenTheAnswerComes(t *testing.T) {
	w := newWorld(t)
	w.idle = true // else the exposure of a paused VM is a risk soon, and it is asked
	var paused, later, resumed, changed memo
	w.at(2*time.Minute, func() {
		a := update(w, contract.UpdPause, contract.PauseIn{By: "kim"})
		w.at(time.Millisecond, func() {
			require.True(t, a.Done)
			w.state()
			paused = w.memo
		})
	})
	w.at(2*time.Minute+10*time.Second, func() { w.state(); later = w.memo })
	w.at(3*time.Minute, func() {
		update(w, contract.UpdResume, contract.ResumeIn{By: "kim"})
		w.at(time.Millisecond, func() { w.state(); resumed = w.memo })
	})
	w.at(4*time.Minute, func() {
		p := policy()
		p.RPO = time.Minute
		update(w, contract.UpdSetPolicy, contract.SetPolicyIn{Policy: p})
		w.at(time.Millisecond, func() { w.state(); changed = w.memo })
	})
	w.protect(protectIn(policy()), 5*time.Minute)
	require.True(t, !paused.now.Plain || paused.listed.Phase == model.PhaseSuspended)
	require.True(t, later.now.Plain)
	require.Equal(t, model.PhaseSuspended, later.listed.Phase)
	require.Equal(t, "kim", later.listed.Paused.By)
	require.True(t, !resumed.now.Plain || resumed.listed.Paused == nil)
	require.True(t, !changed.now.Plain || changed.listed.Policy.RPO == time.Minute)
	require.Greater(t, changed.now.Rev, resumed.now.Rev)
}

// A run that was begun by an older program goes on without a memo: its commands are those that it was begun with.
func TestARunOfAnOlderProgramKeepsNoMemo(t *testing.T) {
	w := newWorld(t)
	w.env.OnGetVersion(string(listedInMemo), workflow.DefaultVersion, workflow.Version(1)).Return(workflow.DefaultVersion)
	w.protect(protectIn(policy()), 2*time.Minute)
	require.Zero(t, w.memo.writes)
}
