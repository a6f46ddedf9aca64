// Package plan decides which of many VMs may start now, when the host of all of them died. Pure.
//
// Nothing waits for ever: a slot is given back after a while also when nobody says that the start is over, and a VM whose
// predecessors do not come up is started without them when its time is over.
package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"understudy/internal/model"
)

// Want is a VM that asks to be started.
type Want struct {
	VM     model.VMRef
	Target model.HostID
	Tier   model.Tier
	Rule   model.StartRule
	Asked  time.Time
}

// Start is one that was let through.
type Start struct {
	VM     model.VMRef
	Target model.HostID
	At     time.Time
}

// End is one whose start is over.
type End struct {
	OK bool
	At time.Time
}

// State is all that is known. The keys are UUIDs.
type State struct {
	Waiting  map[string]Want
	Starting map[string]Start
	Ended    map[string]End
}

const (
	// Gather is how long the first of many are held, so that the most important goes first and not the quickest to ask.
	Gather = time.Second
	// Unheard is how long a VM waits for a predecessor that asked for nothing: it runs elsewhere, or it will ask in a moment.
	Unheard = 10 * time.Second
	// SlotLimit is how long a start holds its slot when nobody says that it is over.
	SlotLimit = 3 * time.Minute
)

// Next says who may start now, in this order, and how long nothing will change by itself; 0 when only a message changes
// anything.
func Next(now time.Time, s State) (start []Want, wake time.Duration) {
	busy := map[model.HostID]int{}
	again := func(at time.Time) {
		if d := max(at.Sub(now), time.Millisecond); wake == 0 || d < wake {
			wake = d
		}
	}
	for _, uuid := range Sorted(s.Starting) {
		r := s.Starting[uuid]
		if over := r.At.Add(SlotLimit); now.Before(over) {
			busy[r.Target]++
			again(over)
		}
	}
	list := inOrder(s.Waiting)
	first := map[model.HostID]time.Time{}
	for _, w := range list {
		if t, ok := first[w.Target]; !ok || w.Asked.Before(t) {
			first[w.Target] = w.Asked
		}
	}
	for _, w := range list {
		if open := first[w.Target].Add(Gather); open.After(now) {
			again(open)
			continue
		}
		if at, _ := ready(now, w, s); at.After(now) {
			again(at)
			continue
		}
		if busy[w.Target] >= limit(w) {
			continue // the end of a start changes that
		}
		busy[w.Target]++
		start = append(start, w)
	}
	return start, wake
}

func limit(w Want) int {
	if w.Rule.Parallel > 0 {
		return w.Rule.Parallel
	}
	return model.DefaultStartParallel
}

// ready is when the VM may start as far as its predecessors go, by what is known now, and what it waits for.
func ready(now time.Time, w Want, s State) (time.Time, string) {
	at, why := w.Asked, ""
	last := w.Asked.Add(waitOf(w))
	later := func(t time.Time, reason string) {
		if t.After(last) {
			t = last
		}
		if t.After(at) {
			at, why = t, reason
		}
	}
	for _, uuid := range w.Rule.After {
		end, ended := s.Ended[uuid]
		before, waits := s.Waiting[uuid]
		running, starts := s.Starting[uuid]
		switch {
		case uuid == w.VM.UUID:
		case waits:
			later(last, "waits for "+before.VM.Name)
		case starts && now.Before(running.At.Add(SlotLimit)):
			later(last, "waits until "+running.VM.Name+" runs")
		case ended && end.OK:
			later(end.At.Add(w.Rule.Delay), "is delayed by the plan")
		case ended:
			later(last, "waits for one that did not come up")
		default:
			later(w.Asked.Add(Unheard), "waits for one that has not asked")
		}
	}
	return at, why
}

func waitOf(w Want) time.Duration {
	if w.Rule.Wait > 0 {
		return w.Rule.Wait
	}
	return model.DefaultStartWait
}

// Why says in words what a VM waits for.
func Why(now time.Time, w Want, s State) string {
	if at, why := ready(now, w, s); at.After(now) {
		return why
	}
	if now.Before(w.Asked.Add(Gather)) {
		return "looks whether others go first"
	}
	return fmt.Sprintf("waits until fewer than %d VMs start on %s", limit(w), w.Target)
}

// Sorted are the keys of a map, so that a workflow may range over it.
func Sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// rank orders tiers.
func rank(t model.Tier) int {
	if i := slices.Index([]model.Tier{model.Gold, model.Silver, model.Bronze}, t); i >= 0 {
		return i
	}
	return 1 // as silver, the default
}

// inOrder is by tier, then by the plan, then by who asked first.
func inOrder(waiting map[string]Want) []Want {
	list := make([]Want, 0, len(waiting))
	for _, uuid := range Sorted(waiting) {
		list = append(list, waiting[uuid])
	}
	slices.SortFunc(list, func(a, b Want) int {
		return cmp.Or(cmp.Compare(rank(a.Tier), rank(b.Tier)), cmp.Compare(a.Rule.Order, b.Rule.Order), a.Asked.Compare(b.Asked),
			strings.Compare(a.VM.UUID, b.VM.UUID))
	})
	return list
}
