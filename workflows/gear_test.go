package workflows

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/model"
)

func withRPO(rpo time.Duration) model.Policy {
	p := policy()
	p.RPO = rpo
	return p
}

func TestTheGearFollowsTheIntervalThatIsPlanned(t *testing.T) {
	for rpo, gear := range map[time.Duration]string{
		5 * time.Second: contract.GearMerged, 20 * time.Second: contract.GearMerged, 30 * time.Second: contract.GearMerged,
		5 * time.Minute: contract.GearStages, 10 * time.Minute: contract.GearStages,
	} {
		t.Run(rpo.String(), func(t *testing.T) {
			w := newWorld(t)
			var st contract.ProtectState
			var told contract.ExplainOut
			merged := 0
			w.at(20*rpo, func() { st, told, merged = w.state(), w.explained(), w.count("capture-and-send") })
			w.protect(protectIn(withRPO(rpo)), 20*rpo+time.Second)
			require.Equal(t, gear, st.Gear)
			require.Equal(t, gear, told.Gear)
			require.Equal(t, gear, told.Decisions[len(told.Decisions)-1].Gear)
			require.Zero(t, st.Totals.Violations)
			require.Zero(t, st.Totals.Failures)
			if gear == contract.GearStages {
				require.Zero(t, merged)
				return
			}
			require.InDelta(t, st.Totals.Cycles-1, merged, 1, "all but the first copy, and one may be under way")
		})
	}
}

func TestAGearIsShiftedBetweenCyclesAndNotInThem(t *testing.T) {
	w := newWorld(t)
	p, changed := withRPO(20*time.Second), false
	w.hooks["replicate"] = func(context.Context) {
		if !changed && w.count("capture-and-send") == 3 {
			changed = true
			p.RPO = 5 * time.Minute
			done := make(chan struct{})
			w.env.RegisterDelayedCallback(func() { update(w, contract.UpdSetPolicy, contract.SetPolicyIn{Policy: p}); close(done) }, 0)
			<-done
		}
	}
	var gears []string
	w.hooks["verify"] = func(context.Context) {
		done := make(chan struct{})
		w.env.RegisterDelayedCallback(func() { gears = append(gears, w.state().Gear); close(done) }, 0)
		<-done
	}
	w.at(90*time.Minute, func() {
		p.RPO = 10 * time.Second
		update(w, contract.UpdSetPolicy, contract.SetPolicyIn{Policy: p})
	})
	w.protect(protectIn(p), 100*time.Minute)
	require.Equal(t, []string{"stages", "merged", "merged", "merged"}, gears[:4], "what is under way ends as it began")
	last := 0
	for i, g := range gears {
		if g == "stages" {
			last = i
		}
	}
	require.Greater(t, last, 8, "back after ten calm cycles")
	require.Equal(t, "merged", gears[len(gears)-1], "and to shorter intervals again")
	require.Less(t, last, len(gears)-5)
}

func TestLargeCapturesAreLeftToTheStages(t *testing.T) {
	w := newWorld(t)
	w.at(2*time.Minute, func() {
		w.dirty = worthKeeping
		w.faults["replicate"] = []fault{{err: timeout(enums.TIMEOUT_TYPE_HEARTBEAT)}}
	})
	w.at(4*time.Minute, func() { w.dirty = 0 })
	w.at(5*time.Minute, func() { update(w, contract.UpdReplicateNow, contract.ReplicateNowIn{By: "ada", Resync: true}) })
	var before, large, st contract.ProtectState
	w.at(2*time.Minute, func() { before = w.state() })
	w.at(4*time.Minute, func() { large = w.state() })
	w.at(6*time.Minute, func() { st = w.state() })
	w.protect(protectIn(policy()), 6*time.Minute+time.Second)
	require.Zero(t, st.Totals.Failures, "a large copy that lost its link goes on: %s", st.LastError)
	require.EqualValues(t, st.Totals.Cycles, w.count("snapshot"), "each was captured once")
	require.Greater(t, large.Totals.Cycles, before.Totals.Cycles)
	require.Greater(t, w.count("replicate"), w.count("snapshot"), "and one of them sent again")
	for i, in := range w.taken {
		if in.Parent.IsZero() || in.ForceResync != "" {
			require.NotContains(t, w.together, in.Seq, "%d", i)
		}
	}
}

// An agent of the release before does not know the activity.
func TestAnOlderAgentIsServedInStages(t *testing.T) {
	w := newWorld(t)
	w.failNext("capture-and-send", temporal.NewNonRetryableApplicationError("unable to find activityType", contract.NotRegistered, nil))
	var st contract.ProtectState
	w.at(5*time.Minute, func() { st = w.state() })
	w.protect(protectIn(policy()), 5*time.Minute+time.Second)
	require.Equal(t, 1, w.count("capture-and-send"))
	require.EqualValues(t, 1, st.Totals.Failures)
	require.Equal(t, contract.GearStages, st.Gear)
	require.Zero(t, st.Totals.Violations)
	require.IsIncreasing(t, seqs(w))
}

// Whatever happens to a cycle, in either gear: no number is made twice, each point builds on the one before, what was written is
// never thought safe without a point, and afterwards it goes on.
func TestEveryFaultOfACycleInBothGears(t *testing.T) {
	faults := map[string]func(w *world){
		"the capture is refused":            func(w *world) { w.failNext("snapshot", refusal(model.Refused)) },
		"another job holds the VM":          func(w *world) { w.failNext("snapshot", refusal(model.JobConflict)) },
		"the checkpoint is lost":            func(w *world) { w.failNext("snapshot", refusal(model.CheckpointLost)) },
		"the guest does not freeze":         func(w *world) { w.failNext("snapshot", refusal(model.QuiesceFailed)) },
		"the answer of the capture is lost": func(w *world) { w.loseReply("snapshot", 1) },
		"the link is lost":                  func(w *world) { w.failNext("replicate", refusal(model.LinkDown)) },
		"the standby is full":               func(w *world) { w.failNext("replicate", refusal(model.TargetFull)) },
		"the capture ends while it is sent": func(w *world) { w.failNext("replicate", refusal(model.StagingLost)) },
		"the answer of the sending is lost": func(w *world) { w.loseReply("replicate", 1) },
		"the agent dies while it sends":     func(w *world) { w.timeOut("replicate", 9) },
		"nobody answers at all":             func(w *world) { w.timeOut("capture-and-send", 3); w.timeOut("snapshot", 2) },
		"the answer of both is lost":        func(w *world) { w.loseReply("capture-and-send", 3) },
		"the proof fails":                   func(w *world) { w.failNext("verify", refusal(model.VerifyMismatch)) },
		"the chain is broken":               func(w *world) { w.failNext("verify", refusal(model.ChainBroken)) },
		"the answer of the proof is lost":   func(w *world) { w.loseReply("verify", 9) },
		"the primary is not settled":        func(w *world) { w.timeOut("settle", 3) },
		"a person removes nothing but pauses": func(w *world) {
			update(w, contract.UpdPause, contract.PauseIn{By: "ada"})
			update(w, contract.UpdResume, contract.ResumeIn{By: "ada"})
		},
	}
	for gear, rpo := range map[string]time.Duration{contract.GearMerged: 20 * time.Second, contract.GearStages: 5 * time.Minute} {
		for name, happen := range faults {
			t.Run(gear+": "+name, func(t *testing.T) {
				w := newWorld(t)
				w.at(6*rpo, func() { happen(w) })
				w.follow(rpo/7, 16*rpo)
				var st contract.ProtectState
				points := 0
				var told contract.ExplainOut
				w.at(16*rpo, func() { st, points, told = w.state(), len(w.hosts[hostB].points), w.explained() })
				w.protect(protectIn(withRPO(rpo)), 16*rpo+time.Second)
				require.Equal(t, model.PhaseProtected, st.Phase, st.LastError)
				require.Equal(t, gear, st.Gear, "%+v", told.Decisions)
				require.Zero(t, st.Failures)
				require.IsIncreasing(t, seqs(w))
				require.InDelta(t, points, st.Totals.Cycles, 1, "one may be on its way")
				for i, v := range w.built[1:] {
					if !v.Parent.IsZero() {
						require.Equal(t, w.built[i].Point, v.Parent, "each point builds on the one before")
					}
				}
			})
		}
	}
}

// follow looks at the exposure every so often: it begins later only when a point was committed.
func (w *world) follow(every, end time.Duration) {
	var origin *time.Time
	var points int64
	for at := every; at < end; at += every {
		w.at(at, func() {
			st := w.state()
			if st.Totals.Cycles == points && points > 0 && origin != nil && !st.Assumed {
				require.NotNil(w.t, st.Unreplicated)
				require.False(w.t, st.Unreplicated.After(*origin), "writes were forgotten without a point")
			}
			points, origin = st.Totals.Cycles, nil
			if !st.Assumed {
				origin = st.Unreplicated
			}
		})
	}
}

// What interrupts a cycle does not wait for it, and finds out afterwards what became of it.
func TestACycleInTheMergedGearIsInterrupted(t *testing.T) {
	for name, c := range map[string]struct {
		happen func(w *world)
		check  func(t *testing.T, w *world, st contract.ProtectState)
	}{
		"by a crash": {func(w *world) { w.crashVM() }, func(t *testing.T, w *world, st contract.ProtectState) {
			require.Equal(t, hostB, st.Primary)
			require.Equal(t, model.PhaseProtected, st.Phase)
			require.EqualValues(t, 2, st.Committed.Generation)
		}},
		"by the loss of its host": {func(w *world) { w.loseHost() }, func(t *testing.T, w *world, st contract.ProtectState) {
			require.Equal(t, hostB, st.Primary)
			require.Zero(t, w.count("abandon"), "there is nobody to ask")
		}},
		"by a cut that heals": {func(w *world) {
			w.fence = false
			w.cutHost()
			w.env.RegisterDelayedCallback(func() { w.hostIsBack(hostA) }, 30*time.Second)
		}, func(t *testing.T, _ *world, st contract.ProtectState) {
			require.Equal(t, hostA, st.Primary)
			require.Equal(t, model.PhaseProtected, st.Phase)
		}},
		"by its removal": {func(w *world) { update(w, contract.UpdUnprotect, contract.UnprotectIn{By: "ada"}) }, func(t *testing.T, w *world, _ contract.ProtectState) {
			require.Equal(t, 1, w.count("retire@host-a"))
			require.Equal(t, 1, w.count("retire@host-b"))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t).connect()
			n := 0
			w.hooks["replicate"] = func(ctx context.Context) {
				if n++; n != 4 {
					return
				}
				require.Equal(w.t, 3, w.count("capture-and-send"))
				w.env.RegisterDelayedCallback(func() { c.happen(w) }, 0)
				w.sleep(ctx, 200*time.Millisecond)
			}
			var st contract.ProtectState
			w.at(4*time.Minute, func() { st = w.state() })
			w.env.SetStartWorkflowOptions(startOptions())
			w.at(4*time.Minute+time.Second, w.env.CancelWorkflow)
			w.env.ExecuteWorkflow(ProtectVM, protectIn(policy()))
			require.True(t, w.env.IsWorkflowCompleted())
			c.check(t, w, st)
			writers := 0
			for _, h := range w.hosts {
				if h.writes() {
					writers++
				}
			}
			require.Equal(t, 1, writers)
			points := seqs(w)
			require.IsIncreasing(t, points)
		})
	}
}

// A burst in the moment after a capture is no rate: planned by it, points would follow each other in seconds for ten minutes.
func TestALookThatFollowsACaptureAtOnceDoesNotHurryTheNext(t *testing.T) {
	w := newWorld(t)
	w.slow = func() time.Duration { return 100 * time.Millisecond }
	w.hooks["verify"] = func(ctx context.Context) { w.sleep(ctx, 20*time.Millisecond) } // then it has written 1 MiB
	var st contract.ProtectState
	w.at(5*time.Minute, func() { st = w.state() })
	w.protect(protectIn(policy()), 5*time.Minute+time.Second)
	require.InDelta(t, 17, st.Totals.Cycles, 4)
	require.Zero(t, st.Totals.Violations)
}

// --- what it costs ----------------------------------------------------------------------------------------------------------

const mostEvents = 30 // of a cycle in the merged gear, on a guest that writes

// eventMeter counts the events that a run would have in its history.
type eventMeter struct {
	interceptor.WorkerInterceptorBase
	mu sync.Mutex
	n  int
}

func (m *eventMeter) add(n int) {
	m.mu.Lock()
	m.n += n
	m.mu.Unlock()
}

func (m *eventMeter) InterceptWorkflow(_ workflow.Context, next interceptor.WorkflowInboundInterceptor) interceptor.WorkflowInboundInterceptor {
	return &meteredIn{interceptor.WorkflowInboundInterceptorBase{Next: next}, m}
}

type meteredIn struct {
	interceptor.WorkflowInboundInterceptorBase
	m *eventMeter
}

func (i *meteredIn) Init(out interceptor.WorkflowOutboundInterceptor) error {
	return i.Next.Init(&meteredOut{interceptor.WorkflowOutboundInterceptorBase{Next: out}, i.m})
}

type meteredOut struct {
	interceptor.WorkflowOutboundInterceptorBase
	m *eventMeter
}

func (o *meteredOut) ExecuteActivity(ctx workflow.Context, name string, args ...any) workflow.Future {
	o.m.add(3 + 3) // scheduled, started, completed, and the workflow task that it causes
	return o.Next.ExecuteActivity(ctx, name, args...)
}

func (o *meteredOut) SideEffect(ctx workflow.Context, f func(workflow.Context) any) converter.EncodedValue {
	o.m.add(1)
	return o.Next.SideEffect(ctx, f)
}

func (o *meteredOut) UpsertMemo(ctx workflow.Context, memo map[string]any) error {
	o.m.add(1)
	return o.Next.UpsertMemo(ctx, memo)
}

func (o *meteredOut) UpsertTypedSearchAttributes(ctx workflow.Context, attributes ...temporal.SearchAttributeUpdate) error {
	o.m.add(1)
	return o.Next.UpsertTypedSearchAttributes(ctx, attributes...)
}

// Every event of a cycle is paid for by the control plane, and a history is full after some thousands.
func TestTheEventsOfACycleAreFew(t *testing.T) {
	for _, rpo := range []time.Duration{5 * time.Second, 10 * time.Second, 20 * time.Second} {
		t.Run(rpo.String(), func(t *testing.T) {
			w, m := newWorld(t), &eventMeter{}
			w.pace = time.Millisecond
			w.hooks["verify"] = func(ctx context.Context) { w.sleep(ctx, 20*time.Millisecond) } // in which the guest writes
			w.env.SetWorkerOptions(worker.Options{Interceptors: []interceptor.WorkerInterceptor{m}})
			w.env.SetOnTimerScheduledListener(func(string, time.Duration) { m.add(1) })
			w.env.SetOnTimerFiredListener(func(string) { m.add(1 + 3) })
			w.env.SetOnTimerCanceledListener(func(string) { m.add(1) })
			var from, to contract.ProtectState
			w.at(5*rpo, func() { from = w.state(); m.add(-m.n) })
			w.at(35*rpo, func() { to = w.state() })
			w.protect(protectIn(withRPO(rpo)), 36*rpo)
			cycles := float64(to.Totals.Cycles - from.Totals.Cycles)
			require.InDelta(t, 32, cycles, 5, "about one in a target")
			each := float64(m.n) / cycles
			t.Logf("RPO %s: %.1f events a cycle", rpo, each)
			require.LessOrEqual(t, each, float64(mostEvents))
		})
	}
}

// The same on a real server, as it was recorded.
func TestTheEventsOfACycleInTheRecordedHistory(t *testing.T) {
	hist, _ := readHistory(t, filepath.Join(histories, "protect-in-the-merged-gear.json.gz"))
	var at []int64
	for _, e := range hist.Events {
		if e.GetActivityTaskScheduledEventAttributes().GetActivityType().GetName() == contract.CaptureAndSend.Name {
			at = append(at, e.GetEventId())
		}
	}
	require.Greater(t, len(at), 5)
	each := float64(at[len(at)-1]-at[0]) / float64(len(at)-1)
	t.Logf("%.1f events a cycle", each)
	require.LessOrEqual(t, each, float64(mostEvents))
}
