package workflows

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// sound are the checks at the end of every takeover: the record is closed at its highest number, at most one copy writes, and
// only where the record says so.
func (w *world) sound(out contract.FailoverOut) {
	w.t.Helper()
	rec := w.record()
	w.mu.Lock() // an activity that nobody waits for may still run
	defer w.mu.Unlock()
	writers := 0
	for _, h := range w.hosts {
		if h.writes() {
			writers++
			require.Equal(w.t, rec.PermitHost, h.id, "it runs where nobody permitted it")
		}
	}
	require.LessOrEqual(w.t, writers, 1)
	if out.Outcome == contract.OutcomeFailed {
		return
	}
	require.False(w.t, rec.Open(), "nobody can renew while a takeover is open")
	require.Equal(w.t, max(rec.Permitted, rec.Claimed), rec.Permitted)
	if out.Outcome == contract.OutcomeDone {
		require.Equal(w.t, hostB, rec.PermitHost)
		require.True(w.t, w.hosts[hostB].writes() || w.hosts[hostB].off)
		return
	}
	require.Equal(w.t, hostA, rec.PermitHost)
	require.False(w.t, w.hosts[hostB].running)
}

// bound is a takeover of a VM that a lease binds, with probes: every step there is.
func bound(t *testing.T) (*world, contract.FailoverIn) {
	w, in := takeover(t), failoverIn()
	w.guards, in.Probes = 2, []model.Probe{{Kind: model.ProbeAgent}}
	w.hosts[hostA].bound = true
	_, err := w.records.SetMode(context.Background(), theVM.UUID, 1, hostA, model.ModeLeased, w.terms())
	require.NoError(t, err)
	return w, in
}

var everyStep = []string{"points", "fit", "claim", "seal", "surrender", "permit", "materialize", "start", "confirm", "probe", "set-mode", "hold"}

// Whatever step fails, for good or with its answer lost, and in whatever step it is cancelled: it is taken back in order, or it
// is done.
func TestEveryStepOfATakeoverUnderALeaseFailsInEveryWay(t *testing.T) {
	ways := map[string]func(w *world, step string){
		"refused": func(w *world, step string) {
			for range startTries {
				w.failNext(step, refusal(model.Refused))
			}
		},
		"refused after it was done": func(w *world, step string) {
			for range startTries {
				w.faults[step] = append(w.faults[step], fault{refusal(model.Refused), true})
			}
		},
		"never heard of":          func(w *world, step string) { w.timeOut(step, 6) },
		"done and never heard of": func(w *world, step string) { w.loseReply(step, 6) },
		"done twice":              func(w *world, step string) { w.loseReply(step, 1) },
		"cancelled":               func(w *world, step string) { w.cancelIn(step) },
		"its host dies in it":     func(w *world, step string) { w.dieIn(step, hostB) },
		"the old host dies in it": func(w *world, step string) { w.dieIn(step, hostA) },
		"a fence is all there is": func(w *world, step string) {
			w.failNext("surrender", refusal(model.Internal))
			w.failNext(step, refusal(model.Refused))
		},
		"nothing proves the VM off": func(w *world, step string) {
			w.fence, w.hosts[hostA].cutOff = false, true
			w.failNext("await-lease", refusal(model.Unreachable))
			w.failNext(step, refusal(model.Refused))
		},
	}
	for way, happen := range ways {
		for _, step := range everyStep {
			t.Run(fmt.Sprintf("%s, %s", step, way), func(t *testing.T) {
				w, in := bound(t)
				happen(w, step)
				out, err := w.run(in)
				w.sound(out)
				if err == nil {
					require.Equal(t, contract.OutcomeDone, out.Outcome)
					require.Empty(t, out.Undone)
					return
				}
				require.NotEqual(t, contract.OutcomeDone, out.Outcome)
				require.NotEmpty(t, out.Error)
				if n := len(out.Undone); n == 2 {
					orders := [][]string{{"dismantle", "hand back"}, {"hand back", "clear away"}}
					require.Contains(t, orders, out.Undone, "newest first; the way back does not wait for what was only laid out")
				}
			})
		}
	}
}

// cancelIn cancels the takeover in the middle of a step, once.
func (w *world) cancelIn(step string) {
	once := false
	w.hooks[step] = func(ctx context.Context) {
		if !once {
			once = true
			w.env.CancelWorkflow()
			<-ctx.Done()
		}
	}
}

// dieIn takes a host's power while a step is under way.
func (w *world) dieIn(step string, h model.HostID) {
	w.hooks[step] = func(context.Context) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.hosts[h].off, w.hosts[h].running = true, false
	}
}

// The target cannot be sealed (scenario 5 of references/single-writer.md): the VM never stops, and a number is burnt.
func TestAStandbyThatCannotBeSealedCostsANumberAndNothingElse(t *testing.T) {
	w, in := bound(t)
	w.hooks["seal"] = func(context.Context) { w.hosts[hostB].cutOff = true }
	out, err := w.run(in)
	require.Error(t, err)
	w.sound(out)
	require.EqualValues(t, 3, w.record().Permitted)
	require.True(t, w.hosts[hostA].writes())
	require.Zero(t, w.count("surrender"))
}

// Scenario 24: the target dies after its seal. The old host is there, so nobody needs to wait or to prove anything.
func TestATargetThatDiesBeforeThePermitGivesTheVMBackAtOnce(t *testing.T) {
	w, in := bound(t)
	w.hooks["await-lease"] = func(ctx context.Context) { w.sleep(ctx, 300*time.Millisecond) }
	w.hooks["surrender"] = func(ctx context.Context) {
		w.mu.Lock()
		w.hosts[hostB].off = true
		w.mu.Unlock()
		w.news(hostB, true)
		w.sleep(ctx, 100*time.Millisecond)
	}
	out, err := w.run(in)
	require.Error(t, err)
	w.sound(out)
	require.EqualValues(t, 3, out.HandedBackGeneration)
	require.Zero(t, w.count("await-lease@host-a"))
	require.EqualValues(t, 1, w.count("permit"), "only the hand-back's")
}

// Scenario 26: the target dies after the start and before the commit.
func TestATargetThatDiesRightAfterTheStart(t *testing.T) {
	for name, dead := range map[string]bool{"the old host is there": false, "the old host is dead": true} {
		t.Run(name, func(t *testing.T) {
			w, in := bound(t)
			if dead {
				w.hosts[hostA].off, w.hosts[hostA].running, in.FromSilent = true, false, true
			}
			w.hooks["confirm"] = func(context.Context) { w.hosts[hostB].cutOff, w.hosts[hostB].bound = true, true }
			out, err := w.run(in)
			rec := w.record()
			if dead {
				require.NoError(t, err, "nobody else could run it")
				require.Equal(t, model.ModeProbation, rec.Mode, "the commit waits until the target is heard")
				require.Equal(t, hostB, rec.PermitHost)
				return
			}
			require.Error(t, err)
			require.Equal(t, contract.OutcomeRolledBack, out.Outcome)
			require.Equal(t, hostA, rec.PermitHost)
			require.Equal(t, model.EvidenceLeaseExpired, rec.Evidence.Kind, "its probation was outlasted")
			require.False(t, w.hosts[hostB].writes())
		})
	}
}

// Scenario 32: three ways to ask in the same second make one takeover.
func TestRequestsOfTheSameSecondMakeOneFailover(t *testing.T) {
	w := newWorld(t).connect()
	w.guards = 2
	var one, two *answer[contract.FailoverRequestOut]
	w.at(61*time.Second, func() {
		signal(w, contract.SigCrash, contract.CrashIn{Source: "alertmanager", Reason: "no ping"})
		one = update(w, contract.UpdFailover, contract.FailoverRequestIn{By: "ada"})
		two = update(w, contract.UpdFailover, contract.FailoverRequestIn{By: "bob"})
	})
	var st contract.ProtectState
	w.at(3*time.Minute, func() { st = w.state() })
	w.protect(protectIn(policy()), 3*time.Minute+time.Second)
	require.NoError(t, one.Err)
	require.Equal(t, one.Out, two.Out)
	require.Equal(t, 1, w.count("claim"))
	require.Equal(t, hostB, st.Primary)
}

// Scenario 33: one wins, the other is refused.
func TestAFailoverAndASwitchoverAtOnceAreOne(t *testing.T) {
	w := newWorld(t).connect()
	w.guards = 2
	var over, planned *answer[contract.FailoverRequestOut]
	w.at(61*time.Second, func() {
		planned = update(w, contract.UpdSwitchover, contract.SwitchoverRequestIn{By: "bob"})
		over = update(w, contract.UpdFailover, contract.FailoverRequestIn{By: "ada"})
	})
	var st contract.ProtectState
	w.at(4*time.Minute, func() { st = w.state() })
	w.protect(protectIn(policy()), 4*time.Minute+time.Second)
	require.NoError(t, over.Err)
	require.Equal(t, "Conflict", contract.ErrorType(planned.Err))
	require.Equal(t, 1, w.count("claim"))
	require.Equal(t, hostB, st.Primary)
}

// Scenario 35: a switchover's target dies when the old copy has given up. It starts again where it was, and nothing is lost.
func TestASwitchoverWhoseTargetDiesGivesTheVMBack(t *testing.T) {
	w := newWorld(t).connect()
	w.guards = 2
	w.hooks["surrender"] = func(ctx context.Context) {
		w.mu.Lock()
		w.hosts[hostB].off = true
		w.mu.Unlock()
		signal(w, contract.SigHostSuspect, contract.HostSignalIn{Host: hostB})
		w.sleep(ctx, 100*time.Millisecond) // the news is faster than the answer
	}
	w.at(61*time.Second, func() { update(w, contract.UpdSwitchover, contract.SwitchoverRequestIn{By: "ada"}) })
	var st contract.ProtectState
	w.at(4*time.Minute, func() { st = w.state() })
	w.protect(protectIn(policy()), 4*time.Minute+time.Second)
	require.Equal(t, contract.OutcomeRolledBack, st.Failover.Outcome)
	require.Equal(t, hostA, st.Primary)
	require.True(t, w.hosts[hostA].writes())
	require.EqualValues(t, 3, st.Generation)
	require.Zero(t, w.count("start"))
}
