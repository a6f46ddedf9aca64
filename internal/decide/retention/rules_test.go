package retention

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"understudy/internal/model"
)

var midnight = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// live makes a point each ten minutes and keeps the rules after each, as the store does.
func live(r Rules, n int, gap func(i int) time.Duration) []Point {
	var kept []Point
	at := midnight
	for i := range n {
		at = at.Add(gap(i))
		kept = append(kept, Point{model.Seq(i + 1), at})
		drop := map[model.Seq]bool{}
		for _, s := range r.Drop(kept) {
			drop[s] = true
		}
		var next []Point
		for _, p := range kept {
			if !drop[p.Seq] {
				next = append(next, p)
			}
		}
		kept = next
	}
	return kept
}

func TestHoursAndDaysAreKeptWhileTimePasses(t *testing.T) {
	kept := live(Rules{Last: 3, Hourly: 4, Daily: 3}, 6*24*4, func(int) time.Duration { return 10 * time.Minute })
	var at []string
	for _, p := range kept {
		at = append(at, p.TakenAt.Format("02 15:04"))
	}
	require.Equal(t, []string{"03 23:50", "04 21:50", "04 22:50", "04 23:40", "04 23:50", "05 00:00"}, at)
}

func TestLawsOfTheRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Rules{rapid.IntRange(-1, 6).Draw(t, "last"), rapid.IntRange(-1, 6).Draw(t, "hourly"), rapid.IntRange(-1, 4).Draw(t, "daily")}
		n := rapid.IntRange(0, 120).Draw(t, "n")
		kept := live(r, n, func(int) time.Duration { return time.Duration(rapid.IntRange(-5, 200).Draw(t, "gap")) * time.Minute })
		require.LessOrEqual(t, len(kept), max(r.Last, MinKeep)+max(r.Hourly, 0)+max(r.Daily, 0))
		require.Empty(t, r.Drop(kept), "what was kept stays until there is a newer one")
		for i := range min(n, max(r.Last, MinKeep)) {
			require.Equal(t, model.Seq(n-i), kept[len(kept)-1-i].Seq, "the newest stay")
		}
		var seqs []model.Seq
		for _, p := range kept {
			seqs = append(seqs, p.Seq)
		}
		require.Equal(t, KeepLast(seqs, r.Last), Rules{Last: r.Last}.Drop(kept), "without hours and days it is keep-last")
	})
}
