package workflows

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/model"
)

var toMove = contract.SwitchoverRequestIn{By: "ada", Reason: "maintenance"}

func TestASwitchoverStartsTheVMFromTheLastPointOfAPausedVM(t *testing.T) {
	w := newWorld(t).connect()
	pausedAt := map[string]bool{} // the guest, at the last of each
	for _, step := range []string{"snapshot", "replicate", "surrender"} {
		w.hooks[step] = func(context.Context) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if !w.hosts[hostB].running { // later ones are of the other direction
				pausedAt[step] = w.hosts[hostA].paused
			}
		}
	}
	var asked *answer[contract.FailoverRequestOut]
	var st, later contract.ProtectState
	w.at(61*time.Second, func() { asked = update(w, contract.UpdSwitchover, toMove) })
	w.at(75*time.Second, func() { st = w.state() })
	w.at(3*time.Minute, func() { later = w.state() })
	w.protect(protectIn(policy()), 3*time.Minute+time.Second)

	require.NoError(t, asked.Err)
	require.Equal(t, contract.FailoverID(theVM.UUID, 2), asked.Out.WorkflowID)
	f := st.Failover
	require.Equal(t, contract.OutcomeDone, f.Outcome, f.Error)
	require.True(t, f.Planned && f.Result.Planned)
	require.Equal(t, model.EvidenceSurrendered, f.Result.Evidence.Kind)
	require.GreaterOrEqual(t, f.Result.Downtime, time.Duration(0))
	require.Equal(t, map[string]bool{"snapshot": true, "replicate": true, "surrender": true}, pausedAt)
	require.Len(t, w.started, 1)
	for _, in := range w.taken {
		if in.Generation == 1 {
			require.LessOrEqual(t, in.Seq, w.started[0].Seq, "it starts from the newest there is")
		}
	}
	require.Equal(t, model.PointRef{Generation: 1, Seq: f.Result.Point.Seq}, w.started[0])
	require.Equal(t, hostB, later.Primary)
	require.Equal(t, model.PhaseProtected, later.Phase)
	require.Empty(t, later.Alerts)
	require.Zero(t, w.count("fence"))

	// The old host's disks are what the last point was: the first point there sends only what was written since.
	require.NotNil(t, later.Rescue)
	require.Equal(t, []string{"/images/old.qcow2"}, later.Rescue.Disks)
	require.Zero(t, later.Rescue.Unreplicated)
	first := w.hosts[hostA].points[0]
	for _, in := range w.taken {
		if in.Seq == first.Seq {
			require.False(t, in.Parent.IsZero())
			require.Less(t, in.Parent.Seq, first.Seq)
			require.Equal(t, fromWhatIsLeft, in.ForceResync)
		}
		if in.Seq > first.Seq {
			require.Empty(t, in.ForceResync)
		}
	}
	require.True(t, later.Seed.IsZero())
}

// Whatever fails, the VM runs where it was or where it was to go, never nowhere and never twice; and protection goes on with
// deltas from what the standby has.
func TestASwitchoverThatFailsAtAnyStepLeavesTheVMWhereItWas(t *testing.T) {
	for _, step := range []string{"pause-guest", "snapshot", "replicate", "verify", "points", "claim", "seal", "surrender", "permit", "materialize", "start"} {
		t.Run(step, func(t *testing.T) {
			w := newWorld(t).connect()
			armed := false
			w.hooks["pause-guest"] = func(context.Context) {
				w.mu.Lock()
				defer w.mu.Unlock()
				if !armed {
					armed = true
					w.failNext(step, refusal(model.Refused))
				}
			}
			var st contract.ProtectState
			w.at(61*time.Second, func() { update(w, contract.UpdSwitchover, toMove) })
			w.at(3*time.Minute, func() { st = w.state() })
			w.protect(protectIn(policy()), 3*time.Minute+time.Second)

			require.Equal(t, contract.OutcomeRolledBack, st.Failover.Outcome, "%+v", st.Failover)
			require.Empty(t, st.Failover.Result.UndoFailed)
			a, b := w.hosts[hostA], w.hosts[hostB]
			require.True(t, a.running && !a.paused && !b.running, "%+v %+v", a, b)
			require.Equal(t, hostA, st.Primary)
			require.Equal(t, model.PhaseProtected, st.Phase, st.LastError)
			require.Empty(t, st.Failed)
			require.Nil(t, st.Trigger)
			require.Empty(t, st.Alerts)
			last := w.taken[len(w.taken)-1]
			require.False(t, last.Parent.IsZero(), "no full copy")
			require.Equal(t, w.record().Permitted, st.Generation)
		})
	}
}

func TestASwitchoverWhoseAnswersAreLostIsDoneOnce(t *testing.T) {
	for _, step := range []string{"snapshot", "replicate", "verify", "claim", "seal", "surrender", "permit", "materialize", "start"} {
		t.Run(step, func(t *testing.T) {
			w := newWorld(t).connect()
			armed := false
			w.hooks["pause-guest"] = func(context.Context) {
				w.mu.Lock()
				defer w.mu.Unlock()
				if !armed {
					armed = true
					w.loseReply(step, 1)
				}
			}
			var st contract.ProtectState
			w.at(61*time.Second, func() { update(w, contract.UpdSwitchover, toMove) })
			w.at(2*time.Minute, func() { st = w.state() })
			w.protect(protectIn(policy()), 2*time.Minute+time.Second)
			require.Equal(t, contract.OutcomeDone, st.Failover.Outcome, "%+v", st.Failover)
			require.True(t, w.hosts[hostB].running && !w.hosts[hostA].running)
		})
	}
}

// The agent ended the pause by itself, because the control plane was away: what the VM wrote since is in no point.
func TestAVMThatWentOnIsNotMoved(t *testing.T) {
	w := newWorld(t).connect()
	w.hooks["claim"] = func(context.Context) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.hosts[hostA].paused = false
	}
	var st contract.ProtectState
	w.at(61*time.Second, func() { update(w, contract.UpdSwitchover, toMove) })
	w.at(2*time.Minute, func() { st = w.state() })
	w.protect(protectIn(policy()), 2*time.Minute+time.Second)
	require.Equal(t, contract.OutcomeRolledBack, st.Failover.Outcome)
	require.Equal(t, string(model.Conflict), st.Failover.Result.ErrorType)
	require.True(t, w.hosts[hostA].running && !w.hosts[hostB].running)
	require.Empty(t, w.started)
	require.Equal(t, model.PhaseProtected, st.Phase)
}

func TestACrashWhilePointsAreMadeForASwitchoverBecomesAFailover(t *testing.T) {
	w := newWorld(t).connect()
	asked, crashed := (*answer[contract.FailoverRequestOut])(nil), false
	w.hooks["replicate"] = func(context.Context) {
		if asked != nil && !crashed {
			crashed = true
			w.mu.Lock()
			w.hosts[hostA].running = false
			w.mu.Unlock()
			signal(w, contract.SigVMEvent, contract.VMEventIn{Host: hostA, Event: model.Event{Kind: model.EventCrashed, Detail: "killed"}})
			time.Sleep(50 * time.Millisecond)
		}
	}
	var st contract.ProtectState
	w.at(61*time.Second, func() { asked = update(w, contract.UpdSwitchover, toMove) })
	w.at(2*time.Minute, func() { st = w.state() })
	w.protect(protectIn(policy()), 2*time.Minute+time.Second)
	require.True(t, crashed)
	require.Equal(t, contract.OutcomeDone, st.Failover.Outcome)
	require.False(t, st.Failover.Planned)
	require.Zero(t, w.count("pause-guest"))
	require.Equal(t, "Conflict", contract.ErrorType(asked.Err), "%v", asked.Err)
}

func TestSwitchoversAndFailbacksThatCannotBeAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*contract.ProtectState)
		in     contract.SwitchoverRequestIn
		kind   model.Kind
	}{
		"a failover runs": {func(st *contract.ProtectState) { st.Failover = &contract.FailoverBrief{WorkflowID: "x"} }, toMove, model.Conflict},
		"no point yet":    {func(st *contract.ProtectState) { st.Committed = model.PointRef{} }, toMove, model.Conflict},
		"paused":          {func(st *contract.ProtectState) { st.Paused = &contract.PauseInfo{By: "bob"} }, toMove, model.Conflict},
		"off":             {func(st *contract.ProtectState) { st.Off = "it was shut down" }, toMove, model.NotRunning},
		"silent":          {func(st *contract.ProtectState) { st.HostSilent[string(hostB)] = true }, toMove, model.Conflict},
		"a test runs":     {func(st *contract.ProtectState) { st.Testing = &contract.TestFailoverIn{Host: hostB} }, toMove, model.Conflict},
		"home already":    {func(*contract.ProtectState) {}, contract.SwitchoverRequestIn{Failback: true}, model.Conflict},
		"unknown writes": {func(st *contract.ProtectState) {
			st.Primary, st.Standby = hostB, hostA
			st.Rescue = &contract.Rescue{Host: hostA, Unreplicated: 4096}
		}, contract.SwitchoverRequestIn{Failback: true}, model.Refused},
	} {
		t.Run(name, func(t *testing.T) {
			st := &contract.ProtectState{
				Accepted: true, Primary: hostA, Standby: hostB, StandbyReady: true, Committed: model.PointRef{Generation: 1, Seq: 3}, HostSilent: map[string]bool{},
			}
			c.change(st)
			p := &protection{in: protectIn(policy()), st: st, vm: theVM}
			err := p.validSwitchover(c.in)
			require.Equal(t, string(c.kind), contract.ErrorType(err), "%v", err)
			c.in.KeepRescue = true
			if c.kind == model.Refused {
				require.NoError(t, p.validSwitchover(c.in))
			}
		})
	}
}

// After a failover the first point on the returning host shows what that host had written and nobody else has.
func TestWhatAFailoverLostIsShownWhenTheOldHostIsBack(t *testing.T) {
	w := newWorld(t).connect()
	w.unreplicated = 20480
	var st contract.ProtectState
	w.at(61*time.Second, w.crashVM)
	w.at(3*time.Minute, func() { st = w.state() })
	w.protect(protectIn(policy()), 3*time.Minute+time.Second)
	require.Equal(t, hostA, st.Standby)
	require.Equal(t, model.PhaseProtected, st.Phase)
	require.EqualValues(t, 20480, st.Rescue.Unreplicated)
	require.Equal(t, w.started[0], st.From)
	asked := 0
	for _, in := range w.sent {
		if !in.From.IsZero() {
			asked++
			require.Equal(t, w.started[0], in.From)
		}
	}
	require.Equal(t, 1, asked, "once, in the first point")
}
