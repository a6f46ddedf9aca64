package workflows

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// order tells the failover under test what a person decided.
func (w *world) order(kind string) {
	w.env.SignalWorkflow(contract.SigFailoverOrder.Name, contract.FailoverOrder{Kind: kind, By: "ada", Reason: "test"})
}

func (w *world) news(h model.HostID, silent bool) {
	w.env.SignalWorkflow(contract.SigHostNews.Name, contract.HostNews{Host: h, Silent: silent})
}

func TestAHeldFailoverWaitsForAPerson(t *testing.T) {
	for name, c := range map[string]struct {
		decide  func(*world)
		outcome string
		by      string
	}{
		"who commits":                     {func(w *world) { w.order(contract.OrderCommit) }, contract.OutcomeDone, ""},
		"who takes it back":               {func(w *world) { w.order(contract.OrderRollback) }, contract.OutcomeRolledBack, "ada"},
		"who says nothing":                {func(*world) {}, contract.OutcomeDone, ""},
		"while the new host dies":         {func(w *world) { w.news(hostB, true) }, contract.OutcomeRolledBack, ""},
		"who decides before there is any": {func(*world) {}, contract.OutcomeDone, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w, in := takeover(t), failoverIn()
			w.guards, in.Hold = 2, true
			if name == "who decides before there is any" {
				w.hooks["start"] = func(context.Context) { w.order(contract.OrderRollback) }
			}
			var held contract.FailoverOut
			w.at(5*time.Minute, func() {
				v, err := w.env.QueryWorkflow(contract.QueryFailover.Name)
				require.NoError(t, err)
				require.NoError(t, v.Get(&held))
				c.decide(w)
			})
			out, err := w.run(in)
			require.Equal(t, c.outcome == contract.OutcomeDone, err == nil)
			require.NotNil(t, held.HeldUntil)
			require.Nil(t, out.HeldUntil)
			require.Equal(t, c.outcome, out.Outcome, out.Error)
			require.Equal(t, c.by, out.TakenBackBy)
			w.sound(out)
			if c.outcome == contract.OutcomeDone {
				require.Equal(t, model.ModeSole, w.record().Mode)
				return
			}
			require.Equal(t, []string{"dismantle", "hand back"}, out.Undone)
			require.EqualValues(t, 3, out.HandedBackGeneration)
		})
	}
}

// Through the protection, as people do it.
func TestAPersonTakesAHeldFailoverBackAndTheVMGoesOnWhereItWas(t *testing.T) {
	w := newWorld(t).connect()
	w.guards = 2
	var asked *answer[contract.FailoverRequestOut]
	var told, early, late *answer[contract.FailoverBrief]
	var st, held contract.ProtectState
	w.at(2*time.Minute, func() { held = w.state() })
	w.at(60*time.Second, func() {
		early = update(w, contract.UpdConclude, contract.FailoverOrder{Kind: contract.OrderCommit, By: "ada"})
	})
	w.at(61*time.Second, func() {
		asked = update(w, contract.UpdFailover, contract.FailoverRequestIn{By: "ada", Hold: true})
	})
	w.at(3*time.Minute, func() {
		told = update(w, contract.UpdConclude, contract.FailoverOrder{Kind: contract.OrderRollback, By: "ada", Reason: "slow"})
	})
	w.at(4*time.Minute, func() {
		st = w.state()
		late = update(w, contract.UpdConclude, contract.FailoverOrder{Kind: contract.OrderRollback, By: "ada"})
	})
	w.protect(protectIn(policy()), 5*time.Minute)
	require.NoError(t, asked.Err)
	require.NotNil(t, held.Failover.HeldUntil, "status says that a person can decide, and until when")
	require.WithinDuration(t, w.began.Add(61*time.Second+contract.HoldLimit), *held.Failover.HeldUntil, 10*time.Second)
	require.Nil(t, st.Failover.HeldUntil)
	require.True(t, early.Refused)
	require.True(t, late.Refused)
	require.NoError(t, told.Err)
	require.Equal(t, contract.OutcomeRolledBack, told.Out.Outcome)
	require.Equal(t, hostA, st.Primary)
	require.True(t, w.hosts[hostA].writes())
	require.False(t, w.hosts[hostB].running)
	require.EqualValues(t, 3, st.Generation)
	require.Nil(t, st.Paused)
	require.Empty(t, st.Off)
	require.Equal(t, model.PhaseProtected, st.Phase)
	require.Empty(t, st.Alerts)
	require.Equal(t, model.ModeLeased, w.record().Mode, "it is bound again under its new number")
}

func TestAPersonAbandonsAFailoverThatProvesNothing(t *testing.T) {
	w := newWorld(t).connect()
	w.fence = false
	w.hooks["fence"] = func(ctx context.Context) { w.sleep(ctx, 400*time.Millisecond) }
	w.at(61*time.Second, w.cutHost)
	var told *answer[contract.FailoverBrief]
	w.at(61200*time.Millisecond, func() {
		told = update(w, contract.UpdConclude, contract.FailoverOrder{Kind: contract.OrderAbandon, By: "ada"})
	})
	var st contract.ProtectState
	w.at(10*time.Minute, func() { st = w.state() })
	w.protect(protectIn(policy()), 10*time.Minute+time.Second)
	require.NoError(t, told.Err)
	require.Equal(t, "ada", told.Out.Result.TakenBackBy)
	require.NotNil(t, st.Paused)
	require.Equal(t, 1, w.count("claim")-1, "its own and the hand-back's: none followed")
	require.True(t, w.hosts[hostA].running)
	require.False(t, w.record().Open())
}

func TestAPersonsWordIsARungOfTheFailoverThatRuns(t *testing.T) {
	w := newWorld(t).connect()
	w.fence = false
	w.hooks["fence"] = func(ctx context.Context) { w.sleep(ctx, 400*time.Millisecond) }
	w.at(61*time.Second, func() { w.hosts[hostA].off, w.hosts[hostA].running = true, false; w.cutHost() })
	w.at(61200*time.Millisecond, func() {
		update(w, contract.UpdFailover, contract.FailoverRequestIn{By: "ada", Reason: "I pulled the plug", ConfirmPrimaryDown: true})
	})
	var st contract.ProtectState
	w.at(2*time.Minute, func() { st = w.state() })
	w.protect(protectIn(policy()), 2*time.Minute+time.Second)
	require.Equal(t, hostB, st.Primary)
	require.Equal(t, model.EvidencePerson, st.Failover.Result.Evidence.Kind)
	require.Equal(t, "ada: I pulled the plug", ladderOf(*st.Failover.Result)["person"])
	require.Contains(t, ladderOf(*st.Failover.Result)["fence"], "FenceUnconfirmed")
}

// Nothing was wrong but a silence: it is over before anything proves the VM off, so nothing happens to the VM.
func TestAHostThatIsHeardAgainKeepsItsVM(t *testing.T) {
	w := newWorld(t).connect()
	w.guards, w.fence = 2, false
	w.hooks["await-lease"] = func(ctx context.Context) { w.sleep(ctx, 500*time.Millisecond) }
	w.at(61*time.Second, w.cutHost)
	w.at(61200*time.Millisecond, func() { w.hostIsBack(hostA) })
	var st contract.ProtectState
	w.at(3*time.Minute, func() { st = w.state() })
	w.protect(protectIn(policy()), 3*time.Minute+time.Second)
	require.Equal(t, hostA, st.Primary)
	require.True(t, st.Failover.Result.HeardAgain)
	require.EqualValues(t, 3, st.Generation, "the rollback burns a number")
	require.EqualValues(t, 1, st.Totals.FalseAlarms)
	require.True(t, w.hosts[hostA].writes())
	require.Zero(t, w.count("start"))
	require.Equal(t, model.PhaseProtected, st.Phase)
	require.Empty(t, st.Alerts)
	require.Less(t, st.Failover.EndedAt.Sub(w.began), 61500*time.Millisecond, "at once")
}

func TestAFailoverThatAPersonWantsGoesOnWhenTheHostIsHeardAgain(t *testing.T) {
	w, in := takeover(t), failoverIn()
	w.guards, w.fence = 2, false
	w.hosts[hostA].cutOff, in.FromSilent, in.ByPerson = true, true, true
	w.hooks["fence"] = func(ctx context.Context) { w.sleep(ctx, 400*time.Millisecond) }
	w.hooks["await-lease"] = w.hooks["fence"]
	w.at(200*time.Millisecond, func() { w.hosts[hostA].cutOff = false; w.news(hostA, false) })
	out, err := w.run(in)
	require.NoError(t, err)
	require.Equal(t, model.EvidenceSurrendered, out.Evidence.Kind, "it is asked again")
	w.sound(out)
}

// What the probes ask decides: a guest that does not answer is not restored.
func TestAGuestThatDoesNotAnswerGivesWayToAnOlderPointAndThenToTheOldHost(t *testing.T) {
	for name, fails := range map[string]int{"one point": 1, "all points": startTries} {
		t.Run(name, func(t *testing.T) {
			w, in := takeover(t), failoverIn()
			w.guards, in.Probes = 2, []model.Probe{{Kind: model.ProbeAgent}}
			for range fails {
				w.failNext("probe", refusal(model.NotRunning))
			}
			out, err := w.run(in)
			w.sound(out)
			if fails == 1 {
				require.NoError(t, err)
				require.Equal(t, model.Seq(2), out.Point.Seq)
				return
			}
			require.Equal(t, contract.OutcomeRolledBack, out.Outcome)
			require.Equal(t, hostA, out.HandedBackTo)
		})
	}
}

func TestAGuestThatDoesNotAnswerWhereItWasStartedAgainIsMoved(t *testing.T) {
	w, p := newWorld(t).connect(), policy()
	p.RecoverInPlace, p.Probes = 1, []model.Probe{{Kind: model.ProbeAgent}}
	w.failNext("probe", refusal(model.NotRunning))
	w.at(61*time.Second, w.crashVM)
	var st contract.ProtectState
	w.at(3*time.Minute, func() { st = w.state() })
	w.protect(protectIn(p), 3*time.Minute+time.Second)
	require.Equal(t, 1, w.count("restart"))
	require.Equal(t, hostB, st.Primary)
	require.Equal(t, "agent", stepOf(*st.Failover.Result, "probe").Detail)
}

// A target that lacks a network of the VM is told before anything is claimed, and nothing is stopped for it.
func TestATargetThatDoesNotFitChangesNothing(t *testing.T) {
	w := takeover(t)
	w.failNext("fit", refusal(model.Refused))
	out, err := w.run(failoverIn())
	require.Equal(t, "Refused", contract.ErrorType(err))
	require.Zero(t, w.count("claim"))
	require.True(t, w.hosts[hostA].running)
	require.Empty(t, out.Undone)
}

func TestALeaseIsReleasedWhileTheStandbyIsAwayAndTakenAgain(t *testing.T) {
	w, p := newWorld(t).connect(), policy()
	w.guards, p.OnStandbyLoss = 2, model.OnStandbyLossRelease
	var soon, away, back contract.ProtectState
	w.at(61*time.Second, func() {
		w.hosts[hostB].cutOff = true
		signal(w, contract.SigHostSuspect, contract.HostSignalIn{Host: hostB})
	})
	w.at(110*time.Second, func() { soon = w.state() })
	w.at(3*time.Minute, func() { away = w.state() })
	w.at(3*time.Minute+time.Second, func() { w.hostIsBack(hostB) })
	w.at(5*time.Minute, func() { back = w.state() })
	w.protect(protectIn(p), 5*time.Minute+time.Second)
	require.Equal(t, model.ModeLeased, soon.Lease.Mode)
	require.EqualValues(t, 2, away.Generation, "a lease is never loosened inside a generation")
	require.Equal(t, model.ModeSole, away.Lease.Mode)
	require.EqualValues(t, 2, away.Lease.Generation)
	require.EqualValues(t, 2, back.Generation)
	require.Equal(t, model.ModeLeased, back.Lease.Mode)
	require.Equal(t, model.ModeLeased, w.record().Mode)
	require.True(t, w.hosts[hostA].writes())
	require.Equal(t, 1, w.count("take-up"))
	require.Equal(t, model.PhaseProtected, back.Phase)
}

func stepOf(out contract.FailoverOut, name string) contract.FailoverStep {
	for _, s := range out.Steps {
		if s.Name == name {
			return s
		}
	}
	return contract.FailoverStep{}
}
