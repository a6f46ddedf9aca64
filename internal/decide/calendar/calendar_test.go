package calendar

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"understudy/internal/model"
)

// berlin changes its clocks on 2026-03-29 and 2026-10-25, both at 01:00 UTC.
func berlin() model.Zone {
	at := func(s string) int64 {
		t, err := time.Parse(time.RFC3339, s)
		if err != nil {
			panic(err)
		}
		return t.Unix()
	}
	return model.Zone{Name: "Europe/Berlin", Offsets: []model.ZoneOffset{
		{From: at("2025-10-26T01:00:00Z"), Seconds: 3600}, {From: at("2026-03-29T01:00:00Z"), Seconds: 7200}, {From: at("2026-10-25T01:00:00Z"), Seconds: 3600},
	}}
}

func local(day, clock string) time.Time {
	loc := time.FixedZone("CET", 3600)
	if day >= "2026-03-29" && day < "2026-10-25" {
		loc = time.FixedZone("CEST", 7200)
	}
	t, err := time.ParseInLocation("2006-01-02 15:04", day+" "+clock, loc)
	if err != nil {
		panic(err)
	}
	return t
}

func office() model.Policy {
	p := model.Preset(model.Bronze)
	slow := int64(1 << 20)
	p.Calendar = &model.Calendar{Zone: berlin(), Windows: []model.Window{
		{Name: "office", Days: []int{1, 2, 3, 4, 5}, From: 8 * 60, To: 18 * 60, RPO: 10 * time.Second, Tier: model.Gold},
		{Name: "backup", Days: []int{0, 6}, From: 22 * 60, To: 4 * 60, MaxBandwidth: &slow},
	}}
	return p
}

func TestAWindowChangesWhatItNames(t *testing.T) {
	p := office()
	require.NoError(t, p.Validate())
	for _, c := range []struct {
		at     time.Time
		window string
	}{
		{local("2026-03-27", "07:59"), ""}, {local("2026-03-27", "08:00"), "office"}, {local("2026-03-27", "17:59"), "office"}, {local("2026-03-27", "18:00"), ""},
		{local("2026-03-28", "12:00"), ""}, {local("2026-03-28", "23:00"), "backup"}, {local("2026-03-29", "03:30"), "backup"}, {local("2026-03-29", "04:00"), ""},
		{local("2026-03-30", "08:00"), "office"}, // the day after the clocks changed
		{local("2026-03-30", "03:00"), "backup"}, // it began on Sunday
	} {
		got, window := Effective(p, c.at)
		require.Equal(t, c.window, window, c.at)
		require.Nil(t, got.Calendar)
		switch window {
		case "office":
			require.Equal(t, 10*time.Second, got.RPO)
			require.Equal(t, model.Gold, got.Tier)
			require.Zero(t, got.MaxBandwidth)
		case "backup":
			require.Equal(t, 5*time.Minute, got.RPO)
			require.EqualValues(t, 1<<20, got.MaxBandwidth)
		}
	}
	next, ok := NextChange(p, local("2026-03-29", "12:00"))
	require.True(t, ok)
	require.True(t, next.Equal(local("2026-03-29", "22:00")), next)
	_, ok = NextChange(model.DefaultPolicy(), local("2026-03-29", "12:00"))
	require.False(t, ok)
}

func TestAWriteHasToBeSafeWhenAStricterWindowOpens(t *testing.T) {
	p := office()
	opens := local("2026-03-27", "08:00")
	for before, want := range map[time.Duration]time.Duration{
		10 * time.Minute: 5 * time.Minute, // long before
		3 * time.Minute:  3 * time.Minute, // by the opening
		30 * time.Second: 30 * time.Second,
		5 * time.Second:  10 * time.Second, // the window's own target
	} {
		write := opens.Add(-before)
		require.Equal(t, want, Allowance(p, write, write.Add(time.Second)), "written %s before", before)
	}
	closes := local("2026-03-27", "18:00")
	require.Equal(t, 10*time.Second, Allowance(p, closes.Add(-20*time.Second), closes.Add(-19*time.Second)))
	require.Equal(t, 5*time.Minute, Allowance(p, closes.Add(-5*time.Second), closes.Add(-4*time.Second)), "the window closes before ten seconds are over")
	require.Equal(t, 5*time.Minute, Allowance(p, opens.Add(-2*time.Hour), opens.Add(-time.Hour)), "too late already: the target that was missed")
}

func drawPolicy(t *rapid.T) model.Policy {
	p := model.Preset(model.Bronze)
	p.Calendar = &model.Calendar{Zone: berlin()}
	for range rapid.IntRange(1, 4).Draw(t, "windows") {
		w := model.Window{
			Name: "w", Days: rapid.SliceOfNDistinct(rapid.IntRange(0, 6), 1, 7, func(d int) int { return d }).Draw(t, "days"),
			From: rapid.IntRange(0, 1439).Draw(t, "from"), To: rapid.IntRange(1, 1440).Draw(t, "to"),
			RPO: time.Duration(rapid.IntRange(2, 600).Draw(t, "rpo")) * time.Second,
		}
		p.Calendar.Windows = append(p.Calendar.Windows, w)
		if p.Validate() != nil {
			p.Calendar.Windows = p.Calendar.Windows[:len(p.Calendar.Windows)-1]
		}
	}
	return p
}

// Nothing changes before the instant NextChange gives, and something does at it: seen minute by minute by Go's own zone,
// over a change of the clocks.
func TestLawTheNextChangeIsTheNext(t *testing.T) {
	loc, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip("no zone files here")
	}
	rapid.Check(t, func(t *rapid.T) {
		p := drawPolicy(t)
		now := time.Unix(1_774_500_000+rapid.Int64Range(0, 4*86400).Draw(t, "now")/60*60, 0)
		state := func(at time.Time) int {
			l := at.In(loc)
			wall := time.Date(l.Year(), l.Month(), l.Day(), l.Hour(), l.Minute(), 0, 0, time.UTC)
			for i, w := range p.Calendar.Windows {
				if w.Covers(wall) {
					return i
				}
			}
			return -1
		}
		next, ok := NextChange(p, now)
		until := now.Add(7 * 24 * time.Hour)
		if ok {
			until = next
			require.NotEqual(t, state(now), state(next), "nothing changes at %s", next)
		}
		for at := now; at.Before(until); at = at.Add(time.Minute) {
			require.Equal(t, state(now), state(at), "it changes at %s already", at)
		}
	})
}

// A write that is verified within its allowance never exceeds the target in force, at no instant of its life.
func TestLawWhoKeepsTheAllowanceKeepsEveryWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawPolicy(t)
		oldest := time.Unix(1_774_500_000+rapid.Int64Range(0, 4*86400).Draw(t, "oldest"), 0)
		now := oldest.Add(time.Duration(rapid.IntRange(0, 1).Draw(t, "age")) * time.Second)
		allowed := Allowance(p, oldest, now)
		require.GreaterOrEqual(t, allowed, time.Duration(0))
		for at := now; at.Before(oldest.Add(allowed)); at = at.Add(time.Second) {
			in, _ := Effective(p, at)
			require.LessOrEqual(t, at.Sub(oldest), in.RPO, "at %s", at)
		}
		end := oldest.Add(allowed)
		before, _ := Effective(p, end.Add(-1))
		after, _ := Effective(p, end)
		require.LessOrEqual(t, min(before.RPO, after.RPO), allowed, "and it is not stricter than it must be")
	})
}
