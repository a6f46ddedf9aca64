package workflows

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/model"
)

func (w *world) explained() contract.ExplainOut {
	w.t.Helper()
	v, err := w.env.QueryWorkflow(contract.QueryExplain.Name)
	require.NoError(w.t, err)
	var out contract.ExplainOut
	require.NoError(w.t, v.Get(&out))
	return out
}

// The world begins on a Tuesday at noon, UTC.
func TestAWindowOfTheCalendarIsInForceWhenItOpensAndNotAfterwards(t *testing.T) {
	w := newWorld(t)
	p := policy()
	p.RPO = 5 * time.Minute
	limit := int64(5 << 20)
	p.Calendar = &model.Calendar{Zone: model.Zone{Name: "UTC"}, Windows: []model.Window{
		{Name: "rush", Days: []int{2}, From: 12*60 + 10, To: 12*60 + 15, RPO: 10 * time.Second, Tier: model.Gold, MaxBandwidth: &limit},
	}}
	var before, during, after contract.ProtectState
	var told contract.ExplainOut
	w.at(10*time.Minute-time.Second, func() { before = w.state() })
	w.at(14*time.Minute, func() { during, told = w.state(), w.explained() })
	w.at(40*time.Minute, func() { after = w.state() })
	w.protect(protectIn(p), 40*time.Minute+time.Second)

	require.LessOrEqual(t, before.Totals.Cycles, int64(5), "every five minutes or less before")
	require.Greater(t, during.Totals.Cycles, before.Totals.Cycles+20, "every ten seconds in the window")
	require.Zero(t, after.Totals.Violations, "also not at the moment when the target falls")
	require.LessOrEqual(t, after.Totals.Cycles, during.Totals.Cycles+18)
	for _, in := range w.taken {
		require.Contains(t, []time.Duration{10 * time.Second, 5 * time.Minute}, in.RPO)
	}
	last := told.Decisions[len(told.Decisions)-1]
	require.Equal(t, "rush", last.Window)
	require.Equal(t, 10*time.Second, last.RPO)
	limits := map[int64]int{}
	for _, in := range w.sent {
		limits[in.MaxBandwidth]++
	}
	require.Greater(t, limits[limit], 20)
	require.Positive(t, limits[0])
}

func TestSetPolicyCountsAtOnceAndNotAfterTheTimerOfTheOldOne(t *testing.T) {
	w := newWorld(t)
	p := policy()
	p.RPO = time.Hour
	w.at(10*time.Minute, func() {
		p.RPO = 10 * time.Second
		update(w, contract.UpdSetPolicy, contract.SetPolicyIn{Policy: p})
	})
	var before, st contract.ProtectState
	w.at(10*time.Minute-time.Second, func() { before = w.state() })
	w.at(10*time.Minute+2*time.Second, func() { st = w.state() })
	w.protect(protectIn(p), 10*time.Minute+3*time.Second)
	require.Greater(t, before.Cadence.NextAt, w.now().Add(20*time.Minute))
	require.Equal(t, before.Totals.Cycles+1, st.Totals.Cycles)
	require.Equal(t, 2, st.Policy.Version)
}

func TestAllRulesOfRetentionReachTheStandbyAndItsNumberOfPointsIsShown(t *testing.T) {
	w := newWorld(t)
	p := policy()
	p.KeepLast, p.Hourly, p.Daily = 4, 24, 7
	w.faults["replicate"] = []fault{{}, {err: refusal(model.TargetFull)}}
	var st contract.ProtectState
	w.at(2*time.Minute, func() { st = w.state() })
	w.protect(protectIn(p), 2*time.Minute+time.Second)
	for _, in := range w.built {
		require.Equal(t, []int{4, 24, 7}, []int{in.KeepLast, in.Hourly, in.Daily})
	}
	require.Equal(t, []contract.PruneIn{{Fence: w.pruned[0].Fence, KeepLast: 4, Hourly: 24, Daily: 7}}, w.pruned)
	require.Equal(t, len(w.hosts[hostB].points), st.Points)
}

// A busy VM is beyond three quarters of its target before each point: that is the plan, and no alert.
func TestWhatIsPlannedRaisesNoAlertAndWhatIsLateDoes(t *testing.T) {
	w := newWorld(t)
	names := map[string]bool{}
	for s := 20; s < 200; s++ {
		w.at(time.Duration(s)*time.Second, func() {
			for _, n := range alertNames(w.state()) {
				names[n] = true
			}
		})
	}
	var late contract.ProtectState
	w.at(200*time.Second, func() {
		for range 100 {
			w.failNext("replicate", refusal(model.LinkDown))
		}
	})
	w.at(221500*time.Millisecond, func() { late = w.state() })
	w.protect(protectIn(policy()), 4*time.Minute)
	require.Empty(t, names)
	require.Contains(t, alertNames(late), contract.AlertRPOViolated)
}

func TestDecisionsAreExplainedAndTheirNumberIsBounded(t *testing.T) {
	w := newWorld(t)
	var busy, idle contract.ExplainOut
	w.at(10*time.Minute, func() { busy = w.explained(); w.idle = true })
	w.at(2*time.Hour, func() { idle = w.explained() })
	w.protect(protectIn(policy()), 2*time.Hour+time.Second)

	require.Len(t, busy.Decisions, maxDecisions)
	require.Greater(t, busy.Cycles, 20)
	last := busy.Decisions[len(busy.Decisions)-1]
	require.NotEmpty(t, last.Inputs)
	require.NotEmpty(t, last.Change)
	require.NotEmpty(t, last.Cadence.Reason)
	last = idle.Decisions[len(idle.Decisions)-1]
	require.Equal(t, model.BindingIdle, last.Cadence.Binding)
	require.Greater(t, last.Times, 100, "an hour without writes does not push the others out")
	require.True(t, slices.ContainsFunc(idle.Decisions, func(d contract.Decision) bool { return lawful(d.Cadence.Binding) }))
}

func TestWhatWasLearnedSurvivesContinueAsNewAndIsBounded(t *testing.T) {
	w := newWorld(t)
	w.env.SetStartWorkflowOptions(startOptions())
	w.env.ExecuteWorkflow(ProtectVM, protectIn(policy()))
	var can *workflow.ContinueAsNewError
	require.ErrorAs(t, w.env.GetWorkflowError(), &can)
	var in contract.ProtectIn
	require.NoError(t, converter.GetDefaultDataConverter().FromPayloads(can.Input, &in))
	require.NotEmpty(t, in.State.Learned)
	require.Less(t, len(in.State.Learned), 16<<10)
	all, err := json.Marshal(in)
	require.NoError(t, err)
	require.Less(t, len(all), 80<<10)
	t.Logf("%d bytes, of them %d learned", len(all), len(in.State.Learned))

	n := newWorld(t)
	n.records, n.hosts = w.records, w.hosts
	n.env.SetStartTime(w.now())
	var st contract.ProtectState
	var told contract.ExplainOut
	n.at(time.Second, func() { st, told = n.state(), n.explained() })
	n.protect(in, 30*time.Second)
	require.Empty(t, st.Learned, "once, and not in every answer")
	require.GreaterOrEqual(t, told.Cycles, runCycles-1)
	require.Len(t, told.Decisions, maxDecisions)

	in.State.Learned = []byte(`{"fixed_s":"not a list"}`)
	require.Zero(t, recall(in.State.Learned).Cycles, "what cannot be read is begun anew")
}

// A copy that takes most of the target at a fixed cost leaves no slack: the order of giving way is followed, and undone.
func TestWhenNotEverythingFitsMergesWaitAndLaterTheyDoNot(t *testing.T) {
	w := newWorld(t)
	slow := true
	w.slow = func() time.Duration {
		if slow {
			return 25 * time.Second
		}
		return 50 * time.Millisecond
	}
	var told contract.ExplainOut
	w.at(150*time.Second, func() { told = w.explained(); slow = false })
	w.protect(protectIn(policy()), 10*time.Minute)
	require.NotEmpty(t, told.Degraded)
	var waited, compressed bool
	for i, in := range w.built {
		waited = waited || in.PostponeMerges
		compressed = compressed || w.sent[i].Compression == "default"
	}
	require.True(t, waited)
	require.True(t, compressed)
	require.False(t, w.built[len(w.built)-1].PostponeMerges)
	require.Equal(t, "auto", w.sent[len(w.sent)-1].Compression)
}

func TestACountOfDirtyBytesOfAnOlderWindowIsNotBelieved(t *testing.T) {
	w := newWorld(t)
	told := map[time.Duration]contract.ExplainOut{}
	write := func(age time.Duration) {
		at, counted := w.now(), w.now().Add(-age)
		signal(w, contract.SigUtilization, contract.UtilizationIn{Observation: model.Observation{
			At: at, Running: true, OldestWrite: &at, WrittenBytes: 8 << 20, WriteReqs: 1, DirtyBytes: 512 << 20, DirtyAt: &counted,
			Host: &model.HostLoad{LinkBudget: 1 << 20, LinkUse: 0.5},
		}})
	}
	w.idle = true
	for i, age := range []time.Duration{time.Minute, 0} {
		at := time.Duration(30+60*i)*time.Second + 100*time.Millisecond
		w.at(at, func() { w.idle = false; write(age) })
		w.at(at+100*time.Millisecond, func() { told[age] = w.explained(); w.idle = true })
	}
	w.protect(protectIn(policy()), 2*time.Minute)
	value := func(age time.Duration, name string) float64 {
		list := told[age].Decisions
		for _, q := range list[len(list)-1].Inputs {
			if q.Name == name {
				return q.Value
			}
		}
		return 0
	}
	require.Zero(t, value(time.Minute, "dirty clusters"), "as counted by the look before")
	require.EqualValues(t, 512<<20, value(0, "dirty clusters"))
	require.InDelta(t, 0.5, value(0, "use of the host's link"), 0.001)
}
