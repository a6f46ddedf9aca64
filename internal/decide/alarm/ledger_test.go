package alarm

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"understudy/internal/model"
)

const repeat = 4 * time.Hour

var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// teller is a ledger with a clock.
type teller struct {
	Ledger
	now time.Time
}

func begin() *teller {
	l := &teller{now: noon}
	l.Begin(noon)
	return l
}

func (l *teller) after(d time.Duration, seen ...model.Alarm) []model.AlarmState {
	l.now = l.now.Add(d)
	due, _ := l.Observe("a/", seen, l.now, repeat)
	states := []model.AlarmState{}
	for _, n := range due {
		states = append(states, n.State)
		l.Settled(n)
	}
	return states
}

// restarted is the ledger as another process finds it.
func (l *teller) restarted(t *testing.T) *teller {
	b, err := json.Marshal(l.Ledger)
	require.NoError(t, err)
	next := &teller{now: l.now}
	require.NoError(t, json.Unmarshal(b, &next.Ledger))
	next.Begin(l.now)
	return next
}

var violated = model.Alarm{Key: "a/rpo/1", Name: "RPOViolated", VM: "db1", Level: 1}

func TestAnAlarmIsToldOnceThenAfterAWhileAndItsEndOnce(t *testing.T) {
	l := begin()
	require.Equal(t, []model.AlarmState{model.AlarmFiring}, l.after(0, violated))
	require.Empty(t, l.after(time.Second, violated))
	require.Empty(t, l.after(repeat-2*time.Second, violated))
	require.Equal(t, []model.AlarmState{model.AlarmStill}, l.after(time.Second, violated))
	require.Empty(t, l.after(time.Minute))
	require.Equal(t, []model.AlarmState{model.AlarmResolved}, l.after(Hold))
	require.Empty(t, l.after(24*time.Hour))
	require.Empty(t, l.Entries)
	require.Equal(t, []model.AlarmState{model.AlarmFiring}, l.after(0, violated))
}

func TestWhatComesAndGoesIsOneMatter(t *testing.T) {
	l := begin()
	require.Len(t, l.after(0, violated), 1)
	for range 100 {
		require.Empty(t, l.after(30*time.Second))
		require.Empty(t, l.after(30*time.Second, violated))
	}
}

func TestWorseIsToldAtOnceAndOnce(t *testing.T) {
	l, twice := begin(), violated
	twice.Level = 2
	require.Len(t, l.after(0, violated), 1)
	require.Equal(t, []model.AlarmState{model.AlarmWorse}, l.after(time.Second, twice))
	require.Empty(t, l.after(time.Second, violated))
	require.Empty(t, l.after(time.Second, twice))
}

func TestAShortMatterThatMustLastIsNeverTold(t *testing.T) {
	l, disk := begin(), model.Alarm{Key: "a/disk", After: 5 * time.Minute}
	require.Empty(t, l.after(0, disk))
	require.Empty(t, l.after(4*time.Minute, disk))
	require.Empty(t, l.after(time.Minute))
	require.Empty(t, l.Entries)
	require.Empty(t, l.after(time.Minute, disk))
	require.Equal(t, []model.AlarmState{model.AlarmFiring}, l.after(5*time.Minute, disk))
}

func TestWhatHappenedIsToldOnceAndHasNoEnd(t *testing.T) {
	l, ended := begin(), model.Alarm{Key: "a/ended/f1", Happened: true, Since: noon.Add(time.Second)}
	old := model.Alarm{Key: "a/ended/f0", Happened: true, Since: noon.Add(-time.Hour)}
	require.Equal(t, []model.AlarmState{model.AlarmHappened}, l.after(2*time.Second, ended, old))
	require.Empty(t, l.after(repeat, ended, old))
	l = l.restarted(t)
	require.Empty(t, l.after(repeat, ended, old))
	require.Empty(t, l.after(repeat))
	require.Empty(t, l.Entries)
}

func TestAnotherScopeIsNotTouched(t *testing.T) {
	l := begin()
	require.Len(t, l.after(0, violated), 1)
	for range 10 {
		due, _ := l.Observe("b/", nil, l.now.Add(time.Hour), repeat)
		require.Empty(t, due)
	}
	require.Len(t, l.Entries, 1)
	due, _ := l.Observe("b/", []model.Alarm{violated}, l.now, repeat)
	require.Empty(t, due, "of another scope than it was observed in")
}

func TestARestartRepeatsNothingThatSomebodyTook(t *testing.T) {
	l := begin()
	require.Len(t, l.after(0, violated), 1)
	l = l.restarted(t)
	require.Empty(t, l.after(time.Second, violated))
}

func TestARestartSaysAgainWhatNobodyTook(t *testing.T) {
	l := begin()
	l.now = l.now.Add(time.Second)
	due, changed := l.Observe("a/", []model.Alarm{violated}, l.now, repeat)
	require.Len(t, due, 1)
	require.True(t, changed)
	l = l.restarted(t)
	require.Equal(t, []model.AlarmState{model.AlarmFiring}, l.after(time.Second, violated))

	require.Empty(t, l.after(time.Second))
	l.now = l.now.Add(Hold)
	due, _ = l.Observe("a/", nil, l.now, repeat)
	require.Equal(t, model.AlarmResolved, due[0].State)
	l = l.restarted(t)
	require.Equal(t, []model.AlarmState{model.AlarmResolved}, l.after(Hold))
	require.Empty(t, l.Entries)
}

// Whatever comes and goes: a beginning, an end and so on in turn; repetitions are far from each other; and what nobody sees any
// more is forgotten.
func TestLawBeginningsAndEndsAlternate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := begin()
		firing, said := map[string]bool{}, map[string]time.Time{}
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			var seen []model.Alarm
			for key := range 3 {
				if rapid.Bool().Draw(t, "seen") {
					seen = append(seen, model.Alarm{Key: fmt.Sprintf("a/%d", key), Level: 1, After: time.Duration(key) * time.Minute})
				}
			}
			l.now = l.now.Add(time.Duration(rapid.IntRange(1, 5000).Draw(t, "seconds")) * time.Second)
			due, _ := l.Observe("a/", seen, l.now, repeat)
			for _, n := range due {
				switch n.State {
				case model.AlarmFiring:
					require.False(t, firing[n.Key])
					firing[n.Key] = true
				case model.AlarmResolved:
					require.True(t, firing[n.Key])
					firing[n.Key] = false
				case model.AlarmStill:
					require.True(t, firing[n.Key])
					require.GreaterOrEqual(t, l.now.Sub(said[n.Key]), repeat)
				default:
					t.Fatalf("%s", n.State)
				}
				said[n.Key] = l.now
				if rapid.Bool().Draw(t, "taken") {
					l.Settled(n)
				}
			}
			if rapid.IntRange(0, 9).Draw(t, "restart") == 0 {
				for _, e := range l.Entries {
					if e.Owed {
						e.Owed = false // a restart may repeat those
					}
				}
				l.Begin(l.now)
			}
		}
		for range 4 {
			l.now = l.now.Add(Hold)
			due, _ := l.Observe("a/", nil, l.now, repeat)
			for _, n := range due {
				l.Settled(n)
			}
		}
		for _, e := range l.Entries {
			require.True(t, e.Last == model.AlarmResolved, "%+v", e)
		}
	})
}
