// Package alarm decides what is told of alarms, and when: each once, again after a while, and its end once. It has no clock
// and does no I/O.
package alarm

import (
	"maps"
	"slices"
	"strings"
	"time"

	"understudy/internal/model"
)

// Hold is how long an alarm must be away before its end is told: what comes and goes is one matter.
const Hold = time.Minute

// maxEntries bounds the ledger: and its file.
const maxEntries = 2000

// Entry is what was said of one alarm.
type Entry struct {
	Alarm model.Alarm      `json:"alarm"`
	First time.Time        `json:"first"`         // seen
	Said  time.Time        `json:"said,omitzero"` // the last message; zero: none yet
	Last  model.AlarmState `json:"last,omitempty"`
	Owed  bool             `json:"owed,omitempty"` // that message reached nobody yet
	Away  time.Time        `json:"away,omitzero"`  // since when it is not seen any more
}

// Ledger is all that was said, as it survives the process. The zero ledger is not ready; see Begin.
type Ledger struct {
	// Began is when this ledger was new: what happened before it is not told.
	Began   time.Time         `json:"began"`
	Entries map[string]*Entry `json:"entries"`
}

// Begin makes a ledger that came from a file, or from nowhere, ready. What no receiver took is said once more.
func (l *Ledger) Begin(now time.Time) {
	if l.Began.IsZero() {
		l.Began = now
	}
	if l.Entries == nil {
		l.Entries = map[string]*Entry{}
	}
	for key, e := range l.Entries {
		switch {
		case e == nil:
			delete(l.Entries, key)
		case e.Owed && e.Last == model.AlarmResolved:
			e.Last = model.AlarmFiring // it is still away, and its end is told again
		case e.Owed:
			e.Said, e.Last = time.Time{}, ""
		}
	}
}

// Observe takes in all alarms of one scope (a prefix of their keys) as they are now, and gives what is to be told, and whether
// the ledger changed. Alarms of other scopes stay as they are.
func (l *Ledger) Observe(scope string, seen []model.Alarm, now time.Time, repeat time.Duration) (due []model.Notice, changed bool) {
	here := map[string]bool{}
	for _, a := range seen {
		if !strings.HasPrefix(a.Key, scope) || here[a.Key] {
			continue
		}
		here[a.Key] = true
		e := l.Entries[a.Key]
		if e == nil || e.Last == model.AlarmResolved { // its end was said, and it is back
			if e == nil && len(l.Entries) >= maxEntries {
				continue
			}
			e = &Entry{First: now}
			l.Entries[a.Key] = e
			changed = true
		}
		if n, ok := e.present(a, now, l.Began, repeat); ok {
			due = append(due, n)
			changed = true
		}
	}
	for _, key := range slices.Sorted(maps.Keys(l.Entries)) {
		if !strings.HasPrefix(key, scope) || here[key] {
			continue
		}
		e := l.Entries[key]
		switch {
		case e.Last == model.AlarmResolved:
		case e.Alarm.Happened || e.Said.IsZero():
			delete(l.Entries, key)
			changed = true
		case e.Away.IsZero():
			e.Away = now
		case now.Sub(e.Away) >= Hold:
			due = append(due, e.say(model.AlarmResolved, now))
			changed = true
		}
	}
	return due, changed
}

// present takes in that the alarm is there.
func (e *Entry) present(a model.Alarm, now, began time.Time, repeat time.Duration) (model.Notice, bool) {
	worse := a.Level > e.Alarm.Level
	if a.Since.IsZero() {
		a.Since = e.First
	}
	if !e.Alarm.Since.IsZero() && a.Since.After(e.Alarm.Since) {
		a.Since = e.Alarm.Since // one matter, however often it came and went
	}
	if !worse && !e.Said.IsZero() {
		a.Level = e.Alarm.Level // a matter that got a little better and worse again is not told each time
	}
	e.Alarm, e.Away = a, time.Time{}
	switch {
	case a.Happened && (!e.Said.IsZero() || a.Since.Before(began)):
		return model.Notice{}, false
	case a.Happened:
		return e.say(model.AlarmHappened, now), true
	case e.Said.IsZero() && now.Sub(a.Since) < a.After:
		return model.Notice{}, false
	case e.Said.IsZero():
		return e.say(model.AlarmFiring, now), true
	case worse:
		return e.say(model.AlarmWorse, now), true
	case now.Sub(e.Said) >= repeat:
		return e.say(model.AlarmStill, now), true
	}
	return model.Notice{}, false
}

func (e *Entry) say(s model.AlarmState, now time.Time) model.Notice {
	e.Said, e.Last, e.Owed = now, s, true
	return model.Notice{Alarm: e.Alarm, State: s, At: now}
}

// Settled says that a receiver took a notice, or that it was given up; true when the ledger changed.
func (l *Ledger) Settled(n model.Notice) bool {
	e := l.Entries[n.Key]
	if e == nil || !e.Owed || !e.Said.Equal(n.At) {
		return false
	}
	e.Owed = false
	if e.Last == model.AlarmResolved {
		delete(l.Entries, n.Key)
	}
	return true
}
