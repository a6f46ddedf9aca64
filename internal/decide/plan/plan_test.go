package plan

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"understudy/internal/model"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func want(name string, tier model.Tier, after ...string) Want {
	return Want{VM: model.VMRef{Name: name, UUID: name}, Target: "host-b", Tier: tier, Asked: noon, Rule: model.StartRule{After: after, Wait: time.Minute}}
}

func state(wants ...Want) State {
	s := State{Waiting: map[string]Want{}, Starting: map[string]Start{}, Ended: map[string]End{}}
	for _, w := range wants {
		s.Waiting[w.VM.UUID] = w
	}
	return s
}

func names(list []Want) (out []string) {
	for _, w := range list {
		out = append(out, w.VM.Name)
	}
	return out
}

func TestTheMostImportantGoFirstAndNoMoreThanTheHostTakes(t *testing.T) {
	s := state(want("b1", model.Bronze), want("s1", model.Silver), want("g1", model.Gold), want("g2", model.Gold), want("s2", ""))
	start, wake := Next(noon, s)
	require.Empty(t, start, "a moment is given to the others")
	require.Equal(t, Gather, wake)
	start, _ = Next(noon.Add(Gather), s)
	require.Equal(t, []string{"g1", "g2", "s1", "s2"}, names(start))
	other := want("c1", model.Bronze)
	other.Target = "host-c"
	s.Waiting["c1"] = other
	start, _ = Next(noon.Add(Gather), s)
	require.Contains(t, names(start), "c1", "another host has slots of its own")
}

func TestAVMWaitsForThoseBeforeItAndNotForEver(t *testing.T) {
	now := noon.Add(Gather)
	app := want("app", model.Gold, "db")
	s := state(app, want("db", model.Bronze))
	start, _ := Next(now, s)
	require.Equal(t, []string{"db"}, names(start), "the more important one waits for what it needs")
	delete(s.Waiting, "db")
	s.Starting["db"] = Start{VM: model.VMRef{Name: "db"}, Target: "host-b", At: now}
	start, _ = Next(now, s)
	require.Empty(t, start)
	require.Contains(t, Why(now, app, s), "until db runs")

	delete(s.Starting, "db")
	s.Ended["db"] = End{OK: true, At: now}
	start, _ = Next(now, s)
	require.Equal(t, []string{"app"}, names(start))

	app.Rule.Delay = 20 * time.Second
	s.Waiting["app"] = app
	start, wake := Next(now, s)
	require.Empty(t, start)
	require.Equal(t, 20*time.Second, wake)

	s.Ended["db"] = End{OK: false, At: now}
	start, wake = Next(now, s)
	require.Empty(t, start, "it is tried again; the other waits")
	require.Equal(t, noon.Add(time.Minute).Sub(now), wake)
	start, _ = Next(noon.Add(time.Minute), s)
	require.Equal(t, []string{"app"}, names(start), "but not for ever")
}

func TestAPredecessorThatRunsElsewhereIsNotWaitedFor(t *testing.T) {
	s := state(want("app", model.Gold, "db"))
	start, wake := Next(noon.Add(Gather), s)
	require.Empty(t, start)
	require.Equal(t, Unheard-Gather, wake)
	start, _ = Next(noon.Add(Unheard), s)
	require.Equal(t, []string{"app"}, names(start))
}

func TestASlotOfAStartThatIsNeverHeardOfAgainIsGivenBack(t *testing.T) {
	s := state(want("a", model.Gold))
	for i := range model.DefaultStartParallel {
		s.Starting[fmt.Sprint(i)] = Start{Target: "host-b", At: noon}
	}
	start, wake := Next(noon.Add(Gather), s)
	require.Empty(t, start)
	require.Equal(t, SlotLimit-Gather, wake)
	start, _ = Next(noon.Add(SlotLimit), s)
	require.Equal(t, []string{"a"}, names(start))
}

// Whatever the rules are, also circles, everything starts in the end, and never more at once than allowed.
func TestEverythingStartsInTheEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(t, "n")
		s := state()
		for i := range n {
			w := want(fmt.Sprint(i), rapid.SampledFrom([]model.Tier{model.Gold, model.Silver, model.Bronze}).Draw(t, "tier"))
			w.Asked = noon.Add(time.Duration(rapid.IntRange(0, 5000).Draw(t, "asked")) * time.Millisecond)
			w.Rule.Parallel = 2
			for _, p := range rapid.SliceOfN(rapid.IntRange(0, n), 0, 3).Draw(t, "after") {
				w.Rule.After = append(w.Rule.After, fmt.Sprint(p))
			}
			s.Waiting[w.VM.UUID] = w
		}
		now := noon
		for round := 0; len(s.Waiting) > 0; round++ {
			if round > 10*n+100 {
				t.Fatalf("%v still wait", s.Waiting)
			}
			start, wake := Next(now, s)
			for _, w := range start {
				delete(s.Waiting, w.VM.UUID)
				s.Starting[w.VM.UUID] = Start{VM: w.VM, Target: w.Target, At: now}
			}
			if len(s.Starting) > 2 {
				t.Fatalf("%d start at once", len(s.Starting))
			}
			switch {
			case len(s.Starting) > 0:
				for uuid := range s.Starting {
					delete(s.Starting, uuid)
					s.Ended[uuid] = End{OK: rapid.Bool().Draw(t, "ok"), At: now}
					break
				}
				now = now.Add(time.Second)
			case wake == 0 && len(s.Waiting) > 0:
				t.Fatalf("nothing will ever wake %v", s.Waiting)
			default:
				now = now.Add(wake)
			}
		}
	})
}
