package retention

import (
	"cmp"
	"slices"
	"time"

	"understudy/internal/model"
)

// Point is what the rules look at.
type Point struct {
	Seq     model.Seq
	TakenAt time.Time
}

// Rules say which points stay. A point that one rule keeps stays.
type Rules struct {
	Last   int // the newest; fewer than MinKeep count as MinKeep
	Hourly int // beyond them, the newest of each of that many hours that have a point
	Daily  int // and of that many days
}

// RulesOf a policy.
func RulesOf(p model.Policy) Rules { return Rules{Last: p.KeepLast, Hourly: p.Hourly, Daily: p.Daily} }

// Drop tells which points go, oldest first. Hours and days are those of UTC, and only those that have a point count: a VM
// that was off for a week loses nothing by it. Points count by seq: the clocks of two primaries may differ.
func (r Rules) Drop(points []Point) []model.Seq {
	sorted := slices.Clone(points)
	slices.SortFunc(sorted, func(a, b Point) int { return cmp.Compare(b.Seq, a.Seq) })
	hour, day := buckets{left: r.Hourly}, buckets{left: r.Daily}
	var drop []model.Seq
	for i, p := range sorted {
		keep := i < max(r.Last, MinKeep)
		keep = hour.newest(p.TakenAt.UTC().Truncate(time.Hour)) || keep
		keep = day.newest(p.TakenAt.UTC().Truncate(24*time.Hour)) || keep
		if !keep {
			drop = append(drop, p.Seq)
		}
	}
	slices.Reverse(drop)
	return drop
}

// buckets gives its places to the first point of each stretch of time.
type buckets struct {
	left int
	seen map[time.Time]bool
}

func (b *buckets) newest(start time.Time) bool {
	if b.left <= 0 || b.seen[start] {
		return false
	}
	if b.seen == nil {
		b.seen = map[time.Time]bool{}
	}
	b.seen[start] = true
	b.left--
	return true
}
