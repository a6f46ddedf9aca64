package e2e

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// span is a time in which a copy of the VM surely ran on a host, on the clock that all hosts of the lab share.
type span struct {
	host       string
	from, to   time.Time
	generation uint64
	by         string // who saw it: "guest", by what it printed, or "guard", by its journal
}

// guardEvent is a line of a guard's journal.
type guardEvent struct {
	Boot       int64  `json:"boottime_ns"`
	Real       int64  `json:"realtime_ns"`
	Event      string `json:"event"`
	UUID       string `json:"uuid"`
	PID        int    `json:"pid"`
	Started    int64  `json:"started_ns"`
	Seen       int64  `json:"seen_ns"`
	Generation uint64 `json:"generation"`
	Proved     *bool  `json:"proved"`
	Took       int64  `json:"took_ns"`
}

// at is a moment of boot time on the wall's clock, by the two of them in the line.
func (e guardEvent) at(boot int64) time.Time { return time.Unix(0, e.Real-(e.Boot-boot)) }

// journal reads what the guard of a host wrote, from outside: a host that is off has one too.
func (s *story) journal(host string) []guardEvent {
	s.t.Helper()
	f, err := os.Open(filepath.Join(s.lab.Dir(), host, "understudy", "guard.log"))
	require.NoError(s.t, err)
	defer f.Close()
	var out []guardEvent
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var e guardEvent
		if json.Unmarshal(lines.Bytes(), &e) == nil { // a power loss cuts a line
			out = append(out, e)
		}
	}
	return out
}

// runsNow says whether a copy runs on a host at this moment.
func (s *story) runsNow(host string) bool {
	letter := s.state(host)
	return letter != "" && letter != "T"
}

// guardSpans are the times in which a guard knew a copy to run. Nothing is taken for granted: a copy whose end nobody saw, because
// its host lost its power, counts until its last line; one that was gone at a look, until the look before; the last one until now,
// when it runs now.
func guardSpans(host, uuid string, events []guardEvent, now time.Time) []span {
	type proc struct {
		pid     int
		started int64
	}
	open, last := map[proc]*span{}, map[proc]time.Time{}
	frozen := map[proc]bool{}
	var out []span
	end := func(p proc, at time.Time) {
		if s := open[p]; s != nil {
			s.to = at
			if s.to.After(s.from) {
				out = append(out, *s)
			}
			delete(open, p)
		}
	}
	for _, e := range events {
		if e.UUID != uuid || e.PID == 0 {
			if e.Event == "start" { // of another boot, or the guard died: what it finds is found again
				for p := range open {
					end(p, last[p])
				}
			}
			continue
		}
		p := proc{e.PID, e.Started}
		switch e.Event {
		case "found":
			if !frozen[p] && open[p] == nil {
				open[p] = &span{host: host, from: e.at(e.Boot), generation: e.Generation, by: "guard"}
			}
		case "thaw":
			frozen[p] = false
			open[p] = &span{host: host, from: e.at(e.Boot), generation: e.Generation, by: "guard"}
		case "freeze", "kill":
			if e.Proved != nil && *e.Proved {
				end(p, e.at(e.Boot-e.Took)) // from the order on it is being stopped
				frozen[p] = true
			}
		case "gone":
			end(p, e.at(e.Seen))
		}
		last[p] = e.at(e.Boot)
	}
	for p := range open {
		if now.IsZero() || len(open) > 1 {
			now = last[p]
		}
		end(p, now)
	}
	return out
}

// without is a span less the time in which its host stood still: nothing ran then, whatever its guard knew.
func without(s, stood span) []span {
	if stood.to.IsZero() || !stood.from.Before(s.to) || !stood.to.After(s.from) {
		return []span{s}
	}
	before, after := s, s
	before.to, after.from = stood.from, stood.to
	var out []span
	for _, part := range []span{before, after} {
		if part.to.After(part.from) {
			out = append(out, part)
		}
	}
	return out
}

// consoleLate is how much later than it was printed a line of a console may be read on a busy machine. It counts where such a line
// is held against a guard's journal.
const consoleLate = time.Second

// overlaps are the pairs of spans on two hosts that surely ran at one time, for longer than what is allowed.
func overlaps(spans []span, allowed time.Duration) (out [][2]span) {
	for i, a := range spans {
		for _, b := range spans[i+1:] {
			from, to := a.from, a.to
			if b.from.After(from) {
				from = b.from
			}
			if b.to.Before(to) {
				to = b.to
			}
			limit := allowed
			if a.by != b.by {
				limit += consoleLate
			}
			if a.host != b.host && to.Sub(from) > limit {
				out = append(out, [2]span{a, b})
			}
		}
	}
	return out
}

// A law that cannot fail proves nothing: two copies at one time are found, by either witness, and what only looks like them is not.
func TestTwoCopiesAtOneTimeAreFoundByTheJournals(t *testing.T) {
	yes := true
	const s = int64(time.Second)
	line := func(at float64, event string, pid int, e guardEvent) guardEvent {
		e.Boot, e.Event, e.PID, e.UUID = int64(at*float64(s)), event, pid, "u"
		e.Real = e.Boot + 1_700_000_000*s
		return e
	}
	wall := func(at float64) time.Time { return time.Unix(1_700_000_000, int64(at*float64(s))) }
	a := []guardEvent{
		{Boot: 0, Event: "start"}, line(1, "found", 7, guardEvent{Generation: 1}),
		line(20, "freeze", 7, guardEvent{Proved: &yes, Took: s / 10}), line(50, "thaw", 7, guardEvent{Generation: 1}),
		line(61, "gone", 7, guardEvent{Seen: 60 * s}),
	}
	spans := guardSpans("a", "u", a, time.Time{})
	require.Equal(t, []span{
		{host: "a", from: wall(1), to: wall(19.9), generation: 1, by: "guard"}, {host: "a", from: wall(50), to: wall(60), generation: 1, by: "guard"},
	}, spans)
	require.Empty(t, guardSpans("a", "other", a, time.Time{}))
	b := guardSpans("b", "u", []guardEvent{line(30, "found", 9, guardEvent{Generation: 2}), line(40, "freeze", 9, guardEvent{Proved: &yes})}, time.Time{})
	require.Empty(t, overlaps(slices.Concat(spans, b), 0), "while the other one was frozen")
	b = guardSpans("b", "u", []guardEvent{line(55, "found", 9, guardEvent{Generation: 2}), line(70, "gone", 9, guardEvent{Seen: 69 * s})}, time.Time{})
	require.Len(t, overlaps(slices.Concat(spans, b), 0), 1)
	require.Empty(t, overlaps(slices.Concat(spans, b), 6*time.Second), "allowed")
	require.Len(t, overlaps(append(slices.Clone(spans), span{host: "b", from: wall(2), to: wall(5), by: "guest"}), 0), 1)
	crashed := guardSpans("a", "u", []guardEvent{line(1, "found", 7, guardEvent{}), {Boot: 100 * s, Event: "start"}, line(101, "found", 3, guardEvent{}), line(120, "gone", 3, guardEvent{Seen: 119 * s})}, time.Time{})
	require.Len(t, crashed, 1, "of the copy that died with its host nobody knows how long it ran")
	require.Equal(t, wall(101), crashed[0].from)
	require.Equal(t, wall(30), guardSpans("a", "u", []guardEvent{line(1, "found", 7, guardEvent{})}, wall(30))[0].to, "it runs now")
}
