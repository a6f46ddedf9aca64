package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"time"

	"understudy/deploy/lab/labkit"
)

// report is build/demo-report.json.
type report struct {
	VM      string  `json:"vm"`
	RPOGoal float64 `json:"rpo_target_s"`
	labkit.Loss
	Points     int   `json:"points"`
	BytesDirty int64 `json:"bytes_dirty"` // by the bitmaps, all deltas before the crash
	BytesSent  int64 `json:"bytes_sent"`
	// SnapshotCall is how long the calls took that capture an instant: an upper bound of what they can have stalled.
	SnapshotCall percentiles `json:"snapshot_call_ms"`
	// Stall is the guest's own view: the longest time between two acknowledgements around each capture.
	Stall      percentiles `json:"guest_stall_ms"`
	Generation uint64      `json:"generation"`
	Primary    string      `json:"primary"`
	WebUI      string      `json:"web_ui"`
	Timeline   []moment    `json:"timeline"`
}

type percentiles struct {
	N   int     `json:"n"`
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

func newReport(d *demo, w *labkit.Watcher, points []labkit.Point, after labkit.Protection, loss labkit.Loss) report {
	r := report{
		VM: guest, RPOGoal: d.rpo.Seconds(), Loss: loss, Points: len(points),
		Generation: after.Generation, Primary: after.Primary, WebUI: webUI, Timeline: d.timeline,
	}
	var calls, gaps []float64
	for _, p := range points {
		dirty, _, sent := p.Sum()
		r.BytesSent += sent
		if p.Disks[0].Mode == "delta" { // a full copy knows no dirty bytes
			r.BytesDirty += dirty
		}
		calls = append(calls, p.Stall)
		gaps = append(gaps, gapAround(w.Acks(), p.TakenAt))
	}
	r.SnapshotCall, r.Stall = summarize(calls), summarize(gaps)
	return r
}

// gapAround is the longest pause between two acknowledgements within a second of a capture, in ms, less the median
// pause of the whole run, which is the guest's own rhythm.
func gapAround(acks []labkit.Ack, at time.Time) float64 {
	var all []float64
	longest := 0.0
	for i := 1; i < len(acks); i++ {
		if acks[i].Host != acks[i-1].Host {
			continue
		}
		gap := float64(acks[i].At.Sub(acks[i-1].At).Microseconds()) / 1000
		all = append(all, gap)
		if acks[i].At.After(at.Add(-time.Second)) && acks[i-1].At.Before(at.Add(time.Second)) {
			longest = max(longest, gap)
		}
	}
	return max(0, longest-summarize(all).P50)
}

func summarize(v []float64) percentiles {
	if len(v) == 0 {
		return percentiles{}
	}
	s := append([]float64(nil), v...)
	sort.Float64s(s)
	at := func(q float64) float64 { return s[min(len(s)-1, int(q*float64(len(s))))] }
	return percentiles{N: len(s), P50: at(0.5), P99: at(0.99), Max: s[len(s)-1]}
}

func (r report) write(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

func (r report) print(w io.Writer) {
	fmt.Fprintf(w, `
%s is back on %s, generation %d

  promised   RPO %.0f s
  measured   loss (RPO)      %.1f s: %d of %d acknowledged rows recovered, %d lost
             downtime (RTO)  %.1f s, from the last acknowledgement before the crash to the first after it
             %d points, %s dirty by the bitmaps, %s sent
             snapshot calls  p50 %.0f ms, p99 %.0f ms, max %.0f ms
             guest stall     p50 %.0f ms, p99 %.0f ms, max %.0f ms (pauses between acknowledgements around a capture)

  Web UI     %s
  report     build/demo-report.json
`, r.VM, r.Primary, r.Generation, r.RPOGoal, r.RPO, r.RowsRecovered, r.RowsAcknowledged, r.RowsLost,
		r.RTO, r.Points, size(r.BytesDirty), size(r.BytesSent),
		r.SnapshotCall.P50, r.SnapshotCall.P99, r.SnapshotCall.Max, r.Stall.P50, r.Stall.P99, r.Stall.Max, r.WebUI)
}

func size(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d B", n)
}
