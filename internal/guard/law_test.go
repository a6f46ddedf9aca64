package guard

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"understudy/internal/model"
)

// Whatever is said in whatever order: no message takes a deadline, a mode or a generation back, nothing leased runs past its
// deadline, and what was given up never runs.
func TestTheLawHoldsForAnyMessages(t *testing.T) {
	const early = time.Second
	rapid.Check(t, func(t *rapid.T) {
		at := model.BootTime(time.Hour)
		r := record{UUID: "u", BootID: "b"}
		gen := rapid.Uint64Range(0, 4)
		for range rapid.IntRange(1, 30).Draw(t, "messages") {
			at = at.Add(time.Duration(rapid.Int64Range(0, int64(20*time.Second)).Draw(t, "passes")))
			before := r
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0, 1:
				next, err := r.arm(model.GuardArm{
					UUID: "u", BootID: rapid.SampledFrom([]string{"b", "b", "b", "old"}).Draw(t, "boot"),
					Generation: model.Generation(gen.Draw(t, "generation")),
					Deadline:   at.Add(time.Duration(rapid.Int64Range(int64(-30*time.Second), int64(30*time.Second)).Draw(t, "left"))),
					Mode:       rapid.SampledFrom([]model.LeaseMode{model.ModeProbation, model.ModeSole, model.ModeLeased}).Draw(t, "mode"),
					Action:     rapid.SampledFrom([]model.Isolation{model.IsolationFreeze, model.IsolationKill}).Draw(t, "action"),
				}, at)
				if err != nil {
					if next.Generation != before.Generation || next.Deadline != before.Deadline || next.Mode != before.Mode {
						t.Fatalf("a refused message changed %+v to %+v", before, next)
					}
					continue
				}
				r = next
			case 2: // Stop
				if below := model.Generation(gen.Draw(t, "below")); r.Generation < below {
					r.Floor, r.Stopped = max(r.Floor, below), at
				}
			case 3: // Freeze
				r.Cut = r.Generation > 0
			}
			if r.Generation < before.Generation || r.Floor < before.Floor || r.Stopped < before.Stopped {
				t.Fatalf("went back from %+v to %+v", before, r)
			}
			if r.Generation == before.Generation && !before.Cut && (r.Deadline < before.Deadline || r.Mode.Rank() < before.Mode.Rank()) {
				t.Fatalf("went back from %+v to %+v", before, r)
			}
			started := model.BootTime(rapid.Int64Range(0, int64(at)).Draw(t, "started"))
			want, _ := r.wants(started, rapid.Bool().Draw(t, "older"), at, early)
			past := at >= r.Deadline.Add(-early)
			switch {
			case want != mayRun:
			case r.Generation == 0 || r.Floor > r.Generation || r.Cut || started <= r.Stopped:
				t.Fatalf("runs at %d under %+v", at, r)
			case past && (r.Mode != model.ModeSole || started > r.Deadline):
				t.Fatalf("runs past its deadline at %d under %+v", at, r)
			}
			if r.closed(at, early) == "" && (past || r.Generation == 0 || r.Floor > r.Generation || r.Cut) {
				t.Fatalf("may start at %d under %+v", at, r)
			}
		}
	})
}

func TestTheWatchdogStarvesWhenALeasedCopyIsNotProvedToStand(t *testing.T) {
	at := now()
	g := &Guard{o: Options{Early: time.Second, FreezeProof: time.Second, KillProof: time.Second}}
	late := func(mode model.LeaseMode, proved bool, since time.Duration) string {
		v := &vm{rec: record{Generation: 1, Floor: 1, Deadline: at.Add(-time.Second), Mode: mode, Action: model.IsolationFreeze}}
		v.copies = map[int]*copyOf{1: {process: process{PID: 1, Started: at}, busy: true, want: mustFreeze, since: at.Add(-since), proved: proved}}
		return g.order(v, at)
	}
	require.Empty(t, late(model.ModeLeased, false, 1900*time.Millisecond), "both lines have their time")
	require.NotEmpty(t, late(model.ModeLeased, false, 2*time.Second))
	require.NotEmpty(t, late(model.ModeProbation, false, 2*time.Second))
	require.Empty(t, late(model.ModeLeased, true, time.Hour))
	require.Empty(t, late(model.ModeSole, false, time.Hour), "nobody counts on a deadline in mode sole")
}
