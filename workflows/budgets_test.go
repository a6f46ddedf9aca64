package workflows

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/model"
)

func TestACaptureThatStallsTheGuestTooLongIsNotFrozenForAWhile(t *testing.T) {
	w := newWorld(t)
	p := policy()
	p.Freeze, p.MaxStall = true, 50*time.Millisecond
	slow := true // the guest's agent takes its time
	w.stall = func(in contract.SnapshotIn) float64 {
		if in.Freeze && slow {
			return 300
		}
		return 5
	}
	var told []string
	w.at(2*time.Minute, func() { told = alertNames(w.state()); slow = false })
	w.protect(protectIn(p), 8*time.Minute)
	require.Contains(t, told, contract.AlertStallBudget)
	var frozen []bool
	for _, in := range w.taken {
		frozen = append(frozen, in.Freeze)
	}
	require.True(t, frozen[0])
	for _, f := range frozen[1 : 1+leastThaw] {
		require.False(t, f, "%v", frozen)
	}
	require.True(t, frozen[1+leastThaw], "then it is tried again")
	require.True(t, frozen[len(frozen)-1], "%v", frozen)
	require.Empty(t, alertNames(w.state()))
}

func TestWithoutFreezingAStallIsOnlySaid(t *testing.T) {
	w := newWorld(t)
	p := policy()
	p.MaxStall = 50 * time.Millisecond
	w.stall = func(contract.SnapshotIn) float64 { return 80 }
	w.protect(protectIn(p), time.Minute)
	require.Equal(t, []string{contract.AlertStallBudget}, alertNames(w.state()))
}

func TestACPUBudgetLowersCompressionAndKeepsCapturesApartButTheRPOComesFirst(t *testing.T) {
	w := newWorld(t)
	p := policy()
	p.CPUShare, p.Compression = 0.02, "best"
	cost := map[string]time.Duration{"best": 2 * time.Second, "default": time.Second, "fast": 600 * time.Millisecond, "off": 200 * time.Millisecond}
	w.cpu = func(in contract.ReplicateIn) time.Duration { return cost[in.Compression] }
	w.protect(protectIn(p), 12*time.Minute)
	var levels []string
	for _, in := range w.sent {
		if n := len(levels); n == 0 || levels[n-1] != in.Compression {
			levels = append(levels, in.Compression)
		}
	}
	require.Equal(t, []string{"best", "default", "fast", "off"}, levels[:4])
	st := w.state()
	require.LessOrEqual(t, st.Totals.MaxExposure, p.RPO+time.Second, "the promise comes first")
	require.NotContains(t, alertNames(st), contract.AlertCPUBudget, "200 ms each 15 s is less than 2 %%")

	w = newWorld(t)
	p.CPUShare = 0.01
	w.cpu = func(contract.ReplicateIn) time.Duration { return 2 * time.Second }
	w.protect(protectIn(p), 6*time.Minute)
	st = w.state()
	require.Contains(t, alertNames(st), contract.AlertCPUBudget)
	require.LessOrEqual(t, st.Totals.MaxExposure, p.RPO+time.Second)
}

func TestACPUBudgetDelaysWhatOnlyTheLinkHurries(t *testing.T) {
	w := newWorld(t)
	p := policy()
	p.CPUShare = 0.05
	w.cpu = func(contract.ReplicateIn) time.Duration { return 800 * time.Millisecond } // 16 s apart
	busy := func() {
		at := w.now()
		signal(w, contract.SigUtilization, contract.UtilizationIn{Observation: model.Observation{
			At: at, Running: true, OldestWrite: w.oldestWrite(at), WrittenBytes: 1 << 20, WriteReqs: 9, DirtyBytes: -1, Host: &model.HostLoad{LinkBudget: 1 << 30, LinkUse: 0.6},
		}})
	}
	for s := 5; s < 300; s += 3 {
		w.at(time.Duration(s)*time.Second, busy)
	}
	var bound []model.Binding
	for s := 100; s < 300; s += 7 {
		w.at(time.Duration(s)*time.Second+500*time.Millisecond, func() { bound = append(bound, w.state().Cadence.Binding) })
	}
	w.protect(protectIn(p), 5*time.Minute)
	require.Contains(t, bound, model.BindingCPU)
	require.LessOrEqual(t, w.state().Totals.MaxExposure, p.RPO)
}

func TestCompressionLevelsGoDownAndEndAtNone(t *testing.T) {
	for asked, want := range map[string][]string{"best": {"best", "default", "fast", "off", "off"}, "auto": {"auto", "off", "off"}, "off": {"off", "off"}} {
		for down, level := range want {
			require.Equal(t, level, lower(asked, down))
		}
	}
}
