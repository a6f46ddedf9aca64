package workflows

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// connect lets a failover's signal reach the protection under test.
func (w *world) connect() *world {
	w.deliver()
	for _, name := range []string{contract.SigChildFinished.Name, contract.SigFailoverHeld.Name} {
		w.env.OnSignalExternalWorkflow(mock.Anything, contract.ProtectID(theVM.UUID), mock.Anything, name, mock.Anything).Return(
			func(_, _, _, name string, arg any) error {
				w.env.SignalWorkflow(name, arg)
				return nil
			}).Maybe()
	}
	return w
}

func TestACrashInTheMiddleOfACopyStartsTheFailoverAtOnce(t *testing.T) {
	w := newWorld(t).connect()
	copies, atOnce := 0, false
	w.hooks["replicate"] = func(context.Context) {
		if copies++; copies != 3 {
			return
		}
		w.mu.Lock()
		w.hosts[hostA].running = false
		w.mu.Unlock()
		signal(w, contract.SigVMEvent, contract.VMEventIn{Host: hostA, Event: model.Event{Kind: model.EventCrashed, Detail: "killed"}})
		for range 500 { // the copy does not hear of it, and goes on
			if atOnce = w.count("claim") > 0; atOnce {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	var st contract.ProtectState
	w.at(3*time.Minute, func() { st = w.state() })
	w.protect(protectIn(policy()), 3*time.Minute+time.Second)

	require.True(t, atOnce, "the copy was not waited for")
	require.Equal(t, []model.PointRef{{Generation: 1, Seq: 2}}, w.started, "the newest verified point")
	require.Equal(t, contract.OutcomeDone, st.Failover.Outcome)
	require.Equal(t, model.EvidenceSurrendered, st.Failover.Result.Evidence.Kind)
	require.Zero(t, w.count("fence"))
	// Roles are swapped, the old host was demoted, and the VM is protected in the other direction under generation 2.
	require.Equal(t, hostB, st.Primary)
	require.Equal(t, hostA, st.Standby)
	require.EqualValues(t, 2, st.Generation)
	require.Equal(t, model.PhaseProtected, st.Phase)
	require.EqualValues(t, 2, st.Committed.Generation)
	require.Greater(t, st.Committed.Seq, model.Seq(3), "numbers go on")
	require.Equal(t, 2, w.count("surrender@host-a"), "as evidence, then as demotion")
	require.Empty(t, st.Alerts)
	first := w.hosts[hostA].points[0]
	for _, in := range w.taken {
		if in.Seq == first.Seq {
			require.Equal(t, fromWhatIsLeft, in.ForceResync, "the first point on the new standby builds on no point")
		}
	}
}

func TestPowerLossOfTheHostIsJudgedFencedAndTakenOver(t *testing.T) {
	w := newWorld(t).connect()
	var during, back contract.ProtectState
	w.at(61*time.Second, w.loseHost)
	w.at(90*time.Second, func() { during = w.state() })
	w.at(2*time.Minute, func() { w.hostIsBack(hostA) })
	w.at(4*time.Minute, func() { back = w.state() })
	w.protect(protectIn(policy()), 4*time.Minute+time.Second)

	require.Equal(t, 1, w.count("witness@host-b"), "the control plane alone is no verdict")
	require.Equal(t, hostB, during.Primary)
	require.Equal(t, model.EvidenceFenced, during.Failover.Result.Evidence.Kind)
	require.Equal(t, model.PhaseDegraded, during.Phase, "it runs, but nothing protects it")
	require.False(t, during.StandbyReady)
	require.NotNil(t, during.Unreplicated)
	require.Equal(t, model.PhaseProtected, back.Phase)
	require.Equal(t, hostA, back.Standby)
	require.Empty(t, back.Alerts)
}

func TestAHostThatOnlyTheControlPlaneCannotHearIsLeftAlone(t *testing.T) {
	w := newWorld(t).connect()
	w.witness = true
	w.at(61*time.Second, w.cutHost)
	var silent, back contract.ProtectState
	w.at(2*time.Minute, func() { silent = w.state() })
	w.at(2*time.Minute+time.Second, func() { w.hostIsBack(hostA) })
	w.at(3*time.Minute, func() { back = w.state() })
	w.protect(protectIn(policy()), 3*time.Minute+time.Second)
	require.Contains(t, alertNames(silent), contract.AlertCutOff)
	require.Contains(t, alertNames(silent), contract.AlertRPOTwice, "exposure grows while nobody can look")
	require.EqualValues(t, 1, silent.Totals.FalseAlarms)
	require.Zero(t, w.count("claim"))
	require.Equal(t, model.PhaseProtected, back.Phase)
	require.Empty(t, back.Alerts)
}

func TestWhenNobodyCanTellNothingIsDone(t *testing.T) {
	w := newWorld(t).connect()
	w.at(61*time.Second, func() {
		w.hosts[hostB].cutOff = true
		signal(w, contract.SigHostSuspect, contract.HostSignalIn{Host: hostB})
		w.cutHost()
	})
	w.at(3*time.Minute, func() { w.hosts[hostA].off, w.hosts[hostA].running = true, false; w.hostIsBack(hostB) })
	var before, after contract.ProtectState
	w.at(170*time.Second, func() { before = w.state() })
	w.at(4*time.Minute, func() { after = w.state() })
	w.protect(protectIn(policy()), 4*time.Minute+time.Second)
	require.Nil(t, before.Failover)
	require.Contains(t, alertNames(before), contract.AlertCutOff)
	require.Equal(t, contract.OutcomeDone, after.Failover.Outcome, "the standby is heard and is the witness that was missing")
}

func TestFenceUnconfirmedAsksAPersonTriesAgainSlowlyAndGoesOnWhenTheHostIsHeard(t *testing.T) {
	w := newWorld(t).connect()
	w.fence = false
	w.at(61*time.Second, w.cutHost)
	var asked, back contract.ProtectState
	w.at(10*time.Minute, func() { asked = w.state() })
	w.at(10*time.Minute+time.Second, func() { w.fence = true; w.hostIsBack(hostA) })
	w.at(12*time.Minute, func() { back = w.state() })
	w.protect(protectIn(policy()), 12*time.Minute+time.Second)

	require.Empty(t, w.started)
	require.Equal(t, model.PhaseFailed, asked.Phase)
	require.Contains(t, alertNames(asked), contract.AlertFenceUnconfirmed)
	require.Equal(t, hostA, asked.Primary)
	require.True(t, w.hosts[hostA].running, "the VM goes on where it is")
	tries := w.count("fence")
	require.Greater(t, tries, 2, "a fence device may work again")
	require.Less(t, tries, 8, "but it does not storm")
	require.Equal(t, model.PhaseProtected, back.Phase)
	require.Equal(t, hostA, back.Primary)
	require.EqualValues(t, 1+2*tries, back.Generation, "each attempt burnt its own and the hand-back's")
	require.EqualValues(t, back.Generation, w.record().Permitted)
	require.Equal(t, back.Generation, back.Committed.Generation)
	require.Empty(t, back.Alerts)
	for _, in := range w.built[1:] {
		require.False(t, in.Parent.IsZero(), "the chain goes on, nothing is sent again")
	}
}

func TestAFenceDeviceThatWorksAgainEndsTheOutage(t *testing.T) {
	w := newWorld(t).connect()
	w.fence = false
	w.at(61*time.Second, w.cutHost)
	w.at(3*time.Minute, func() { w.fence = true })
	var st contract.ProtectState
	w.at(10*time.Minute, func() { st = w.state() })
	w.protect(protectIn(policy()), 10*time.Minute+time.Second)
	require.Equal(t, hostB, st.Primary)
	require.NotContains(t, alertNames(st), contract.AlertFenceUnconfirmed)
}

func TestUnderAManualPolicyACrashIsAnAlertAndARestartByHandGoesOn(t *testing.T) {
	w := newWorld(t).connect()
	p := policy()
	p.Failover = model.FailoverManual
	w.at(61*time.Second, w.crashVM)
	var down, up contract.ProtectState
	w.at(2*time.Minute, func() { down = w.state() })
	w.at(2*time.Minute+time.Second, func() {
		w.hosts[hostA].running = true
		w.failNext("snapshot", refusal(model.CheckpointLost))
		signal(w, contract.SigVMEvent, contract.VMEventIn{Host: hostA, Event: model.Event{Kind: model.EventStarted}})
	})
	w.at(3*time.Minute, func() { up = w.state() })
	w.protect(protectIn(p), 3*time.Minute+time.Second)
	require.Equal(t, model.PhaseSuspended, down.Phase)
	require.Contains(t, alertNames(down), contract.AlertVMDown)
	require.NotNil(t, down.Trigger)
	require.Zero(t, w.count("claim"))
	require.Equal(t, model.PhaseProtected, up.Phase)
	require.Nil(t, up.Trigger)
	require.Empty(t, up.Alerts)
	resyncs := 0
	for _, in := range w.taken {
		if in.ForceResync != "" {
			resyncs++
		}
	}
	require.Equal(t, 1, resyncs)
}

func TestAPersonsRequestOverridesAManualPolicy(t *testing.T) {
	w := newWorld(t).connect()
	p := policy()
	p.Failover = model.FailoverManual
	var one, two *answer[contract.FailoverRequestOut]
	w.at(61*time.Second, func() {
		one = update(w, contract.UpdFailover, contract.FailoverRequestIn{By: "ada", Reason: "drill"})
		two = update(w, contract.UpdFailover, contract.FailoverRequestIn{By: "bob", Reason: "me too"})
	})
	var st contract.ProtectState
	w.at(2*time.Minute, func() { st = w.state() })
	w.protect(protectIn(p), 2*time.Minute+time.Second)
	require.NoError(t, one.Err)
	require.NoError(t, two.Err)
	require.Equal(t, one.Out, two.Out, "two requests meet in one failover")
	require.Equal(t, contract.FailoverID(theVM.UUID, 2), one.Out.WorkflowID)
	require.Equal(t, hostB, st.Primary)
	require.Equal(t, 1, w.count("claim"))
}

func TestARequestThatComesToNothingBeforeItTouchesTheVMChangesNothing(t *testing.T) {
	w := newWorld(t).connect()
	w.at(61*time.Second, func() {
		update(w, contract.UpdFailover, contract.FailoverRequestIn{By: "ada", Seq: 99})
	})
	var st contract.ProtectState
	w.at(2*time.Minute, func() { st = w.state() })
	w.protect(protectIn(policy()), 2*time.Minute+time.Second)
	require.Equal(t, contract.OutcomeRolledBack, st.Failover.Outcome)
	require.Contains(t, st.Failover.Error, "point 99")
	require.Equal(t, model.PhaseProtected, st.Phase, "the VM runs and is protected")
	require.True(t, w.hosts[hostA].running)
	require.EqualValues(t, 1, st.Generation)
}

// The old host gave its running VM up, and then the standby could not start it: it goes on where it was, with nothing lost.
func TestAVMStoppedForAFailoverThatCameToNothingIsStartedAgainWhereItWas(t *testing.T) {
	w := newWorld(t).connect()
	for range 200 {
		w.failNext("start", refusal(model.Refused))
	}
	w.at(61*time.Second, func() { update(w, contract.UpdFailover, contract.FailoverRequestIn{By: "ada"}) })
	var st contract.ProtectState
	w.at(2*time.Minute, func() { st = w.state() })
	w.protect(protectIn(policy()), 2*time.Minute+time.Second)
	require.Equal(t, model.EvidenceSurrendered, st.Failover.Result.Evidence.Kind)
	require.Equal(t, contract.OutcomeRolledBack, st.Failover.Outcome)
	require.True(t, w.hosts[hostA].running)
	require.Equal(t, model.PhaseProtected, st.Phase)
	require.EqualValues(t, 3, st.Generation)
	require.Equal(t, 1, w.count("take-up"))
}

// A surrender arrived so late that nobody waited for its answer any more: the VM is off although the takeover was rolled back.
func TestASurrenderThatWasCarriedOutTooLateIsMadeGood(t *testing.T) {
	w := newWorld(t).connect()
	w.fence = false
	w.at(61*time.Second, w.cutHost)
	w.at(80*time.Second, func() {
		w.hosts[hostA].running, w.hosts[hostA].stopped = false, true
		w.hostIsBack(hostA)
	})
	var st contract.ProtectState
	w.at(2*time.Minute, func() { st = w.state() })
	w.protect(protectIn(policy()), 2*time.Minute+time.Second)
	require.Equal(t, contract.OutcomeRolledBack, st.Failover.Outcome)
	require.True(t, w.hosts[hostA].running)
	require.Equal(t, model.PhaseProtected, st.Phase)
	require.Empty(t, st.Alerts)
}

func TestUnprotectAndSyncAreRefusedDuringAFailover(t *testing.T) {
	w := newWorld(t).connect()
	var unprotect *answer[contract.UnprotectOut]
	var sync *answer[contract.ReplicateNowOut]
	var st contract.ProtectState
	w.hooks["start"] = func(context.Context) {
		done := make(chan struct{})
		w.env.RegisterDelayedCallback(func() {
			unprotect = update(w, contract.UpdUnprotect, contract.UnprotectIn{By: "ada"})
			sync = update(w, contract.UpdReplicateNow, contract.ReplicateNowIn{By: "ada"})
			st = w.state()
			close(done)
		}, 0)
		<-done
	}
	w.at(61*time.Second, w.crashVM)
	w.protect(protectIn(policy()), 2*time.Minute)
	require.True(t, unprotect.Refused)
	require.Equal(t, "Conflict", contract.ErrorType(unprotect.Err))
	require.True(t, sync.Refused)
	require.Equal(t, model.PhaseFailingOver, st.Phase)
	require.NotNil(t, st.Unreplicated, "exposure grows meanwhile")
}

func TestAFailoverThatEndsWithoutItsSignalIsNoticed(t *testing.T) {
	w := newWorld(t)
	w.env.OnWorkflow(contract.FailoverVMName, mock.Anything, mock.Anything).Return(contract.FailoverOut{}, errors.New("terminated"))
	w.at(61*time.Second, w.crashVM)
	var st contract.ProtectState
	w.at(70*time.Second, func() { st = w.state() })
	w.protect(protectIn(policy()), 71*time.Second)
	require.Equal(t, contract.OutcomeFailed, st.Failover.Outcome)
	require.Equal(t, model.PhaseFailed, st.Phase)
	require.Contains(t, alertNames(st), contract.AlertFailoverFailed)
}

func TestAStartThatFailsEverywhereLeavesTheVMWithAPersonAndTheTruth(t *testing.T) {
	w := newWorld(t).connect()
	for range 200 {
		w.failNext("start", refusal(model.Refused))
	}
	w.at(61*time.Second, w.crashVM)
	var st contract.ProtectState
	w.at(80*time.Second, func() { st = w.state() })
	w.at(3*time.Minute, func() {
		w.hosts[hostA].running = true
		signal(w, contract.SigVMEvent, contract.VMEventIn{Host: hostA, Event: model.Event{Kind: model.EventStarted}})
	})
	var back contract.ProtectState
	w.at(5*time.Minute, func() { back = w.state() })
	w.protect(protectIn(policy()), 5*time.Minute+time.Second)
	require.Equal(t, model.PhaseFailed, st.Phase)
	require.Equal(t, hostA, w.record().PermitHost)
	require.Equal(t, []string{"dismantle", "hand back"}, st.Failover.Result.Undone)
	require.Contains(t, alertNames(st), contract.AlertFailoverFailed)
	require.Equal(t, model.PhaseProtected, back.Phase, "started by hand on its old host it goes on under the burnt number")
	require.Empty(t, back.Alerts)
}

// The old host's agent serves the VM no more after it surrendered, so nobody tells that a person started it there again.
func TestAVMThatAPersonStartedAfterAFailedFailoverIsFoundAndLeftRunning(t *testing.T) {
	w := newWorld(t).connect()
	for range 200 {
		w.failNext("start", refusal(model.Refused))
	}
	w.at(61*time.Second, w.crashVM)
	w.at(70*time.Second, func() { w.hosts[hostA].running = true })
	var st contract.ProtectState
	w.at(4*time.Minute, func() { st = w.state() })
	w.protect(protectIn(policy()), 4*time.Minute+time.Second)
	require.True(t, w.hosts[hostA].running, "it was not stopped for a second try")
	require.Equal(t, model.PhaseProtected, st.Phase)
	require.EqualValues(t, 3, st.Generation)
	require.Empty(t, st.Alerts)
}
