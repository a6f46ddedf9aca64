// Package ui prints for people and machines: sizes and durations in words, tables, JSON, and one progress line. It knows
// nothing of what it prints.
package ui

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Bytes is a size for people, in binary units.
func Bytes(n int64) string {
	const units = "KMGTPE"
	if n < 0 {
		return "?"
	}
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/1024, 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	return fmt.Sprintf("%.1f %ciB", v, units[i])
}

var byteUnits = []struct {
	suffix string
	factor float64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1}, {"", 1},
}

// ParseBytes reads 12MB, 10MiB, 1.5GiB or a plain number of bytes. Units without a B are refused: half of the world reads
// 10M as ten million bytes, the other half as 10 MiB.
func ParseBytes(s string) (int64, error) {
	text := strings.TrimSpace(s)
	for _, u := range byteUnits {
		number, found := strings.CutSuffix(text, u.suffix)
		if !found {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || math.IsNaN(v) || v < 0 || v*u.factor >= math.MaxInt64 {
			break
		}
		return int64(v * u.factor), nil
	}
	return 0, fmt.Errorf("%q is not a size: write for example 12MB, 10MiB or 1.5GiB", s)
}

// Duration is a span for people.
func Duration(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + Duration(-d)
	case d < time.Minute:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + " s"
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d d", int(d.Hours()/24))
}

// Ago is the age of t at now; "-" for the zero time.
func Ago(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return Duration(max(0, now.Sub(t))) + " ago"
}
