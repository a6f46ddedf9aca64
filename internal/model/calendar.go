package model

import (
	"sort"
	"time"
)

// Bounds of a calendar.
const (
	MaxWindows = 16
	dayMinutes = 24 * 60
)

// Calendar changes parts of a policy at certain hours of the week.
type Calendar struct {
	Zone    Zone     `json:"zone"`
	Windows []Window `json:"windows"`
}

// Zone is a time zone with the rules it had when the policy was given. A decision must come out the same on every host and
// in every replay, so it cannot look into a host's zone files.
type Zone struct {
	Name    string       `json:"name"`
	Offsets []ZoneOffset `json:"offsets"` // by time; the first also counts before it
}

// ZoneOffset is in force from an instant on.
type ZoneOffset struct {
	From    int64 `json:"from"`    // Unix seconds
	Seconds int   `json:"seconds"` // east of UTC
}

// Window is a part of the week. What it does not set stays as the policy has it.
type Window struct {
	Name string `json:"name"`
	Days []int  `json:"days"` // on which it begins; 0 is Sunday
	From int    `json:"from"` // minute of the day, 0 to 1439
	To   int    `json:"to"`   // 1 to 1440; not above From: on the next day

	RPO          time.Duration `json:"rpo_ns,omitempty"`
	Tier         Tier          `json:"tier,omitempty"`
	MaxBandwidth *int64        `json:"max_bandwidth,omitempty"` // 0 is unbounded
}

// Wall is the time that clocks in the zone show, as if it were UTC.
func (z Zone) Wall(t time.Time) time.Time {
	return t.UTC().Add(time.Duration(z.offset(t.Unix())) * time.Second)
}

func (z Zone) offset(unix int64) int {
	i := sort.Search(len(z.Offsets), func(i int) bool { return z.Offsets[i].From > unix })
	switch {
	case len(z.Offsets) == 0:
		return 0
	case i == 0:
		return z.Offsets[0].Seconds
	}
	return z.Offsets[i-1].Seconds
}

// Covers says whether the window is open at a time on the wall.
func (w Window) Covers(wall time.Time) bool {
	day, minute := int(wall.Weekday()), wall.Hour()*60+wall.Minute()
	if w.From < w.To {
		return w.on(day) && minute >= w.From && minute < w.To
	}
	return w.on(day) && minute >= w.From || w.on((day+6)%7) && minute < w.To
}

func (w Window) on(day int) bool {
	for _, d := range w.Days {
		if d == day {
			return true
		}
	}
	return false
}

// Overlaps says whether some minute of the week belongs to both.
func (w Window) Overlaps(o Window) bool {
	sunday := time.Date(2023, 1, 1, 0, 0, 0, 0, time.UTC)
	for m := range 7 * dayMinutes {
		if at := sunday.Add(time.Duration(m) * time.Minute); w.Covers(at) && o.Covers(at) {
			return true
		}
	}
	return false
}

// In is the policy while the window is open.
func (w Window) In(p Policy) Policy {
	if w.RPO > 0 {
		p.RPO = w.RPO
	}
	if w.Tier != "" {
		p.Tier = w.Tier
	}
	if w.MaxBandwidth != nil {
		p.MaxBandwidth = *w.MaxBandwidth
	}
	return p
}

// Strictest is p as it is in force when it asks for the smallest RPO, with the window that does; p itself when none does.
func (p Policy) Strictest() (strictest Policy, window string) {
	strictest = p
	if p.Calendar != nil {
		for _, w := range p.Calendar.Windows {
			if in := w.In(p); in.RPO < strictest.RPO {
				strictest, window = in, w.Name
			}
		}
	}
	strictest.Calendar = nil
	return strictest, window
}

func (w Window) validate() error {
	switch {
	case len(w.Days) == 0:
		return Fail(InvalidArgument, nil, "the window %q is on no day", w.Name)
	case w.From < 0 || w.From >= dayMinutes || w.To < 1 || w.To > dayMinutes:
		return Fail(InvalidArgument, nil, "the window %q is outside the day", w.Name)
	case w.From == w.To:
		return Fail(InvalidArgument, nil, "the window %q begins and ends at the same time; a whole day is 00:00 to 24:00", w.Name)
	case w.RPO == 0 && w.Tier == "" && w.MaxBandwidth == nil:
		return Fail(InvalidArgument, nil, "the window %q changes nothing", w.Name)
	}
	for _, d := range w.Days {
		if d < 0 || d > 6 {
			return Fail(InvalidArgument, nil, "the window %q names day %d; days are 0 (Sunday) to 6", w.Name, d)
		}
	}
	return nil
}

// validateCalendar refuses windows that are impossible in themselves, with the policy, or beside each other.
func (p Policy) validateCalendar() error {
	if p.Calendar == nil {
		return nil
	}
	if n := len(p.Calendar.Windows); n > MaxWindows {
		return Fail(InvalidArgument, nil, "a calendar has at most %d windows, not %d", MaxWindows, n)
	}
	plain := p
	plain.Calendar = nil
	for i, w := range p.Calendar.Windows {
		if err := w.validate(); err != nil {
			return err
		}
		if err := w.In(plain).Validate(); err != nil {
			return Fail(KindOf(err), err, "the window %q", w.Name)
		}
		for _, o := range p.Calendar.Windows[:i] {
			if w.Overlaps(o) {
				return Fail(InvalidArgument, nil, "the windows %q and %q overlap: which one counts?", o.Name, w.Name)
			}
		}
	}
	return nil
}
