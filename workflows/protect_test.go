package workflows

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/model"
)

func TestABusyVMGetsPointsWithinItsTargetAndNotMoreOften(t *testing.T) {
	w := newWorld(t)
	var st contract.ProtectState
	w.at(5*time.Minute, func() { st = w.state() })
	w.protect(protectIn(policy()), 5*time.Minute+time.Second)

	require.Equal(t, model.PhaseProtected, st.Phase)
	require.Equal(t, "", st.LastError)
	require.InDelta(t, 16, st.Totals.Cycles, 2, "one point in a little less than 20 s")
	require.Zero(t, st.Totals.Violations)
	require.Less(t, st.Totals.MaxExposure, 20*time.Second)
	require.Greater(t, st.Totals.MaxExposure, 17*time.Second)
	require.Equal(t, model.PointRef{Generation: 1, Seq: st.NextSeq - 1}, st.Committed)
	for i, v := range w.built[1:] {
		require.Equal(t, w.built[i].Point, v.Parent, "each point builds on the one before")
	}
	require.Equal(t, model.Binding("slack"), st.Cadence.Binding)
	require.Empty(t, st.Alerts)
}

func TestAnIdleVMCostsLooksButNoCycles(t *testing.T) {
	w := newWorld(t)
	w.idle = true
	var st contract.ProtectState
	w.at(10*time.Minute, func() { st = w.state() })
	w.protect(protectIn(policy()), 10*time.Minute+time.Second)
	require.EqualValues(t, 1, st.Totals.Cycles, "the first copy only")
	require.Greater(t, st.Totals.Skipped, int64(10))
	require.Nil(t, st.Unreplicated, "no exposure")
	require.Equal(t, model.PhaseProtected, st.Phase)
	require.Equal(t, model.BindingIdle, st.Cadence.Binding)
}

func TestTheFirstWriteAfterIdlingIsPlannedForAtOnce(t *testing.T) {
	w := newWorld(t)
	w.idle = true
	w.at(65*time.Second, func() {
		w.idle = false
		at := w.now()
		signal(w, contract.SigUtilization, contract.UtilizationIn{Observation: model.Observation{At: at, Running: true, OldestWrite: &at, DirtyBytes: 4096, WriteReqs: 1}})
	})
	var st contract.ProtectState
	w.at(90*time.Second, func() { st = w.state() })
	w.protect(protectIn(policy()), 91*time.Second)
	require.GreaterOrEqual(t, st.Totals.Cycles, int64(2))
	require.Less(t, st.Totals.MaxExposure, 20*time.Second)
}

func TestPauseHoldsCyclesAndResumeCatchesUp(t *testing.T) {
	w := newWorld(t)
	var paused, later, resumed contract.ProtectState
	w.at(30*time.Second, func() { update(w, contract.UpdPause, contract.PauseIn{By: "ada", Reason: "maintenance"}) })
	w.at(31*time.Second, func() { paused = w.state() })
	var refused *answer[contract.ReplicateNowOut]
	w.at(100*time.Second, func() { refused = update(w, contract.UpdReplicateNow, contract.ReplicateNowIn{By: "ada"}) })
	w.at(110*time.Second, func() { later = w.state(); update(w, contract.UpdResume, contract.ResumeIn{By: "ada"}) })
	w.at(115*time.Second, func() { resumed = w.state() })
	w.protect(protectIn(policy()), 2*time.Minute)

	require.Equal(t, model.PhaseSuspended, paused.Phase)
	require.Equal(t, paused.Totals.Cycles, later.Totals.Cycles)
	require.Contains(t, alertNames(later), contract.AlertRPOTwice, "a pause does not hide the exposure")
	require.True(t, refused.Refused)
	require.Equal(t, "Conflict", contract.ErrorType(refused.Err))
	require.Greater(t, resumed.Totals.Cycles, later.Totals.Cycles)
	require.Equal(t, model.PhaseProtected, resumed.Phase)
	require.Empty(t, resumed.Alerts)
	require.EqualValues(t, 1, resumed.Totals.Violations)
}

func TestReplicateNowAnswersWithAPointTakenAfterTheRequest(t *testing.T) {
	w := newWorld(t)
	var asked time.Time
	var got *answer[contract.ReplicateNowOut]
	w.at(61*time.Second, func() {
		asked = w.now()
		got = update(w, contract.UpdReplicateNow, contract.ReplicateNowIn{By: "ada", Resync: true})
	})
	w.protect(protectIn(policy()), 2*time.Minute)
	require.True(t, got.Done)
	require.NoError(t, got.Err)
	require.False(t, got.Out.Point.TakenAt.Before(asked))
	require.Equal(t, string(model.ModeResync), got.Out.Point.Modes)
}

func TestASyncMakesOnePointAndAResyncIsNotUsedUpByACycleUnderWay(t *testing.T) {
	w := newWorld(t)
	w.idle = true
	var points int
	w.hooks["replicate"] = func(context.Context) {
		if points++; points == 2 { // the cycle that the first request asked for is under way
			done := make(chan struct{})
			w.env.RegisterDelayedCallback(func() {
				update(w, contract.UpdReplicateNow, contract.ReplicateNowIn{By: "ada", Resync: true})
				close(done)
			}, 0)
			<-done
		}
	}
	w.at(61*time.Second, func() { update(w, contract.UpdReplicateNow, contract.ReplicateNowIn{By: "ada"}) })
	w.protect(protectIn(policy()), 3*time.Minute)
	require.Len(t, w.taken, 3, "the first copy and one point for each request")
	require.Empty(t, w.taken[1].ForceResync)
	require.Equal(t, "asked for by ada", w.taken[2].ForceResync)
}

func TestSetPolicyChangesTheDistanceOfPoints(t *testing.T) {
	w := newWorld(t)
	var refused *answer[contract.DescribeOut]
	w.at(10*time.Second, func() {
		p := policy()
		p.RPO = 5 * time.Minute
		update(w, contract.UpdSetPolicy, contract.SetPolicyIn{Policy: p})
		p.KeepLast = 0
		refused = update(w, contract.UpdSetPolicy, contract.SetPolicyIn{Policy: p})
	})
	var st contract.ProtectState
	w.at(10*time.Minute, func() { st = w.state() })
	w.protect(protectIn(policy()), 10*time.Minute+time.Second)
	require.Equal(t, 2, st.Policy.Version)
	require.LessOrEqual(t, st.Totals.Cycles, int64(5))
	require.True(t, refused.Refused)
	require.Equal(t, "InvalidArgument", contract.ErrorType(refused.Err))
}

func TestContinueAsNewCarriesEverything(t *testing.T) {
	w := newWorld(t)
	w.at(time.Minute, func() {
		update(w, contract.UpdPause, contract.PauseIn{By: "ada", Reason: "x"})
		signal(w, contract.SigForceCAN, contract.None{})
	})
	w.env.SetStartWorkflowOptions(startOptions())
	w.env.ExecuteWorkflow(ProtectVM, protectIn(policy()))
	var can *workflow.ContinueAsNewError
	require.ErrorAs(t, w.env.GetWorkflowError(), &can)
	var in contract.ProtectIn
	require.NoError(t, converter.GetDefaultDataConverter().FromPayloads(can.Input, &in))
	require.NotNil(t, in.State)
	require.Greater(t, in.State.Totals.Cycles, int64(2))
	require.Equal(t, "ada", in.State.Paused.By)

	// The next run goes on from there: no preflight, no second begin, numbers go up.
	n := newWorld(t)
	n.records, n.hosts = w.records, w.hosts
	n.env.SetStartTime(w.now())
	in.State.Paused = nil
	n.protect(in, 30*time.Second)
	require.Zero(t, n.count("preflight"))
	require.Equal(t, in.State.NextSeq, n.taken[0].Seq)
	require.Equal(t, in.State.Committed, n.taken[0].Parent)
}

func TestARunEndsByItselfBetweenCycles(t *testing.T) {
	w := newWorld(t)
	w.env.SetStartWorkflowOptions(startOptions())
	w.env.ExecuteWorkflow(ProtectVM, protectIn(policy()))
	require.True(t, workflow.IsContinueAsNewError(w.env.GetWorkflowError()), "%v", w.env.GetWorkflowError())
	require.Equal(t, runCycles, w.count("verify"))
}

func TestFailuresOfACycleAndWhatFollows(t *testing.T) {
	for name, c := range map[string]struct {
		stage string
		kind  model.Kind
		check func(*testing.T, *world, contract.ProtectState)
	}{
		"a lost checkpoint is answered by a resync at once": {"snapshot", model.CheckpointLost, func(t *testing.T, w *world, _ contract.ProtectState) {
			require.NotEmpty(t, w.taken[1].ForceResync)
			require.Empty(t, w.taken[2].ForceResync, "once")
		}},
		"a broken chain is begun again from nothing": {"verify", model.ChainBroken, func(t *testing.T, w *world, _ contract.ProtectState) {
			require.False(t, w.taken[1].Parent.IsZero())
			require.True(t, w.taken[2].Parent.IsZero())
		}},
		"a copy that is wrong is dropped, and its number with it": {"verify", model.VerifyMismatch, func(t *testing.T, w *world, _ contract.ProtectState) {
			require.Equal(t, 1, w.count("discard"))
			require.NotContains(t, seqs(w), model.Seq(2))
			require.NotEmpty(t, w.taken[2].ForceResync)
		}},
		"a guest that does not freeze gets a crash-consistent point": {"snapshot", model.QuiesceFailed, func(t *testing.T, w *world, st contract.ProtectState) {
			require.Contains(t, alertNames(st), contract.AlertFreezeFailed)
		}},
		"a lost link is tried again": {"replicate", model.LinkDown, func(t *testing.T, w *world, _ contract.ProtectState) {
			require.Equal(t, 1, w.count("abandon"))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.faults[c.stage] = []fault{{}, {err: refusal(c.kind)}} // the first copy passes
			var st contract.ProtectState
			w.at(90*time.Second, func() { st = w.state() })
			w.protect(protectIn(policy()), 91*time.Second)
			c.check(t, w, st)
			require.Zero(t, st.Failures, "it works again: %s", st.LastError)
			require.EqualValues(t, 1, st.Totals.Failures)
			require.Equal(t, model.PhaseProtected, st.Phase)
			require.IsIncreasing(t, seqs(w))
		})
	}
}

func seqs(w *world) []model.Seq {
	var out []model.Seq
	for _, p := range w.hosts[hostB].points {
		out = append(out, p.Seq)
	}
	return out
}

func TestAFullStandbyIsPrunedAndThenSaidSo(t *testing.T) {
	w := newWorld(t)
	w.faults["replicate"] = []fault{{}}
	for range 50 {
		w.failNext("replicate", refusal(model.TargetFull))
	}
	var st contract.ProtectState
	w.at(2*time.Minute, func() { st = w.state() })
	w.protect(protectIn(policy()), 2*time.Minute+time.Second)
	require.Equal(t, model.PhaseDegraded, st.Phase)
	require.Contains(t, alertNames(st), contract.AlertStandbyFull)
	require.Positive(t, w.count("prune"))
	require.Equal(t, model.Seq(1), st.Committed.Seq, "the point before stays")
	require.Positive(t, st.Totals.Violations)
}

func TestAPointWhoseCommitNobodyToldIsNeitherLostNorMadeTwice(t *testing.T) {
	w := newWorld(t)
	w.faults["verify"] = []fault{{}}
	w.loseReply("verify", 5)
	var st contract.ProtectState
	w.at(70*time.Second, func() { st = w.state() })
	w.protect(protectIn(policy()), 71*time.Second)
	require.IsIncreasing(t, seqs(w))
	require.EqualValues(t, len(w.hosts[hostB].points), st.Totals.Cycles)
	require.Equal(t, model.Seq(2), w.built[2].Parent.Seq, "the next one builds on it")
	require.Zero(t, st.Failures)
}

func TestAVerifyThatNeverHappenedIsMadeImpossibleBeforeGoingOn(t *testing.T) {
	w := newWorld(t)
	w.failNext("verify", nil)
	w.timeOut("verify", 5)
	w.protect(protectIn(policy()), 70*time.Second)
	require.GreaterOrEqual(t, w.count("discard"), 1)
	require.Equal(t, model.Seq(1), w.built[1].Parent.Seq)
	require.NotContains(t, seqs(w), model.Seq(2))
}

func TestANewerOwnerStopsTheProtectionAtOnce(t *testing.T) {
	w := newWorld(t)
	w.at(30*time.Second, func() { w.hosts[hostA].floor = 9 })
	var st contract.ProtectState
	w.at(5*time.Minute, func() { st = w.state() })
	w.protect(protectIn(policy()), 5*time.Minute+time.Second)
	require.Equal(t, model.PhaseFailed, st.Phase)
	require.Contains(t, alertNames(st), contract.AlertStaleGeneration)
}

func TestARefusedPreflightLeavesNothingBehind(t *testing.T) {
	w := newWorld(t)
	w.failNext("preflight", nil, refusal(model.TargetFull))
	var got *answer[contract.DescribeOut]
	w.at(0, func() { got = update(w, contract.UpdAwaitReady, contract.None{}) })
	w.env.SetStartWorkflowOptions(startOptions())
	w.env.ExecuteWorkflow(ProtectVM, protectIn(policy()))
	require.Equal(t, "TargetFull", contract.ErrorType(w.env.GetWorkflowError()))
	require.Equal(t, "TargetFull", contract.ErrorType(got.Err))
	require.Zero(t, w.count("begin-record"))
}

func TestAFloorLeftByAnEarlierProtectionIsPassed(t *testing.T) {
	w := newWorld(t)
	w.hosts[hostB].floor = 7
	var st contract.ProtectState
	w.at(10*time.Second, func() { st = w.state() })
	w.protect(protectIn(policy()), 11*time.Second)
	require.EqualValues(t, 10, st.Generation)
	require.EqualValues(t, 10, w.record().Permitted)
}

func TestUnprotectInterruptsACycleAndListsWhatASilentHostKeeps(t *testing.T) {
	w := newWorld(t)
	var got *answer[contract.UnprotectOut]
	w.hooks["replicate"] = func(ctx context.Context) {
		w.mu.Lock()
		w.hosts[hostA].cutOff = true
		w.mu.Unlock()
		w.env.RegisterDelayedCallback(func() { got = update(w, contract.UpdUnprotect, contract.UnprotectIn{By: "ada"}) }, 0)
		<-ctx.Done()
	}
	w.env.SetStartWorkflowOptions(startOptions())
	w.env.ExecuteWorkflow(ProtectVM, protectIn(policy()))
	require.NoError(t, w.env.GetWorkflowError())
	require.True(t, got.Done)
	require.Len(t, got.Out.Leftovers, 1)
	require.Contains(t, got.Out.Leftovers[0], "host-a")
	_, err := w.records.Read(context.Background(), theVM.UUID)
	require.Equal(t, model.NotFound, model.KindOf(err))
}
