// Package calendar says which policy is in force at an instant, and how old a write may get when a window opens or closes
// meanwhile. Pure: the zone's rules are in the policy.
package calendar

import (
	"cmp"
	"slices"
	"time"

	"understudy/internal/model"
)

// Effective is p as it is in force at now, without its calendar; window is the open one's name, empty when none is.
func Effective(p model.Policy, now time.Time) (effective model.Policy, window string) {
	c := p.Calendar
	p.Calendar = nil
	if i := open(c, now); i >= 0 {
		return c.Windows[i].In(p), c.Windows[i].Name
	}
	return p, ""
}

// NextChange is the first instant after now at which another policy is in force; false when there is none within a week
// (then there is none at all, but for a change of the clocks, and the next look sees that).
func NextChange(p model.Policy, now time.Time) (time.Time, bool) {
	return nextChange(p.Calendar, now, 8*24*time.Hour)
}

// Allowance is the exposure that a write of the given instant may reach: the RPO in force, or less when a window with a
// smaller one opens before. A write that is four minutes old when the target falls from five minutes to ten seconds would
// be a violation at that moment, so the decision has to know before.
func Allowance(p model.Policy, oldest, now time.Time) time.Duration {
	effective, _ := Effective(p, now)
	if oldest.After(now) {
		oldest = now
	}
	if !oldest.Add(effective.RPO).After(now) {
		return effective.RPO // too old already
	}
	end := now.Add(2 * model.MaxRPO)
	for at := now; at.Before(end); {
		next, found := nextChange(p.Calendar, at, 2*model.MaxRPO)
		due := oldest.Add(effective.RPO)
		if due.Before(at) { // the window that opened at at asks for more than this write was given
			due = at
		}
		if !found || !due.After(next) {
			return max(due.Sub(oldest), 0)
		}
		at = next
		effective, _ = Effective(p, at)
	}
	return effective.RPO
}

// open is the index of the window that counts at now, -1 when none is open.
func open(c *model.Calendar, now time.Time) int {
	if c == nil {
		return -1
	}
	wall := c.Zone.Wall(now)
	return slices.IndexFunc(c.Windows, func(w model.Window) bool { return w.Covers(wall) })
}

func nextChange(c *model.Calendar, now time.Time, within time.Duration) (time.Time, bool) {
	if c == nil || len(c.Windows) == 0 {
		return time.Time{}, false
	}
	was := open(c, now)
	for _, t := range instants(c, now, within) {
		if open(c, t) != was {
			return t, true
		}
	}
	return time.Time{}, false
}

// instants are all at which a window may open or close, in order: each boundary on the wall under each offset that is in
// force about then, and each change of the clocks.
func instants(c *model.Calendar, now time.Time, within time.Duration) []time.Time {
	end := now.Add(within)
	offsets := map[int]bool{}
	var list []time.Time
	for i, o := range c.Zone.Offsets {
		from := time.Unix(o.From, 0)
		if from.Before(end) && (i+1 == len(c.Zone.Offsets) || time.Unix(c.Zone.Offsets[i+1].From, 0).After(now)) || i == 0 {
			offsets[o.Seconds] = true
			list = append(list, from)
		}
	}
	if len(offsets) == 0 {
		offsets[0] = true
	}
	midnight := now.UTC().Truncate(24 * time.Hour).Add(-48 * time.Hour)
	for day := midnight; day.Before(end.Add(24 * time.Hour)); day = day.Add(24 * time.Hour) {
		for _, w := range c.Windows {
			for _, minute := range []int{w.From, w.To} {
				for off := range offsets {
					list = append(list, day.Add(time.Duration(minute)*time.Minute-time.Duration(off)*time.Second))
				}
			}
		}
	}
	list = slices.DeleteFunc(list, func(t time.Time) bool { return !t.After(now) || t.After(end) })
	slices.SortFunc(list, func(a, b time.Time) int { return cmp.Compare(a.UnixNano(), b.UnixNano()) })
	return list
}
