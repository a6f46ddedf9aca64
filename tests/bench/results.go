package main

import (
	"fmt"
	"io"
	"sort"
)

// results is build/bench.json. Times are in seconds unless said, sizes in bytes.
type results struct {
	Schedules []scheduled `json:"schedules,omitempty"`
	Machine   string      `json:"machine"`
	Full      struct {
		Bytes     int64     `json:"content_bytes"`
		Sent      int64     `json:"sent_bytes"`
		NBDCopy   []float64 `json:"nbdcopy_s"`
		Replicate []float64 `json:"replicate_s"` // the stage alone
		Whole     []float64 `json:"whole_s"`     // snapshot to committed point, proof included
	} `json:"first_full"`
	Scatter struct {
		Dirty   int64 `json:"dirty_bytes"`
		Changed int64 `json:"changed_bytes"`
		Sent    int64 `json:"sent_bytes"`
	} `json:"scattered_4k"`
	Cycle struct {
		Dirty []float64 `json:"dirty_bytes"`
		Ours  []float64 `json:"snapshot_to_commit_s"`
		Sync  []float64 `json:"understudy_sync_s"`
		Call  []float64 `json:"snapshot_call_s"`
		Peer  []float64 `json:"virtnbdbackup_inc_s"`
	} `json:"cycle"`
	Stall struct {
		With    []float64 `json:"worst_gap_of_a_second_with_snapshot_ms"`
		Without []float64 `json:"worst_gap_of_a_second_without_ms"`
	} `json:"stall"`
	Slowdown struct {
		Alone     []float64 `json:"rows_per_s_alone"`
		Protected []float64 `json:"rows_per_s_protected"`
	} `json:"slowdown_rpo_10s"`
	Memory float64 `json:"agent_peak_mib"`
}

func quantile(v []float64, q float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := append([]float64(nil), v...)
	sort.Float64s(s)
	return s[min(len(s)-1, int(q*float64(len(s))))]
}

func median(v []float64) float64 { return quantile(v, 0.5) }

func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

func (r results) print(w io.Writer) {
	fmt.Fprintf(w, "%s\n\n", r.Machine)
	row := func(what, figure, bar string) { fmt.Fprintf(w, "%-34s %-52s %s\n", what, figure, bar) }
	row("cycle, snapshot to commit", fmt.Sprintf("p50 %.2f s, max %.2f s (%.0f kB dirty); virtnbdbackup inc p50 %.2f s, ratio %.2f",
		median(r.Cycle.Ours), quantile(r.Cycle.Ours, 1), median(r.Cycle.Dirty)/1e3, median(r.Cycle.Peer), ratio(median(r.Cycle.Ours), median(r.Cycle.Peer))), "bar 0.5 s")
	row("  the command `understudy sync`", fmt.Sprintf("p50 %.2f s", median(r.Cycle.Sync)), "")
	r.printFull(w)
	row("wire, scattered 4 KiB writes", fmt.Sprintf("%.1f MB sent of %.1f MB dirty: %.3f", float64(r.Scatter.Sent)/1e6, float64(r.Scatter.Dirty)/1e6,
		ratio(float64(r.Scatter.Sent), float64(r.Scatter.Dirty))), "bar 0.2")
	row("guest stall, with a snapshot", fmt.Sprintf("p50 %.0f ms, p99 %.0f ms, max %.0f ms over %d s", median(r.Stall.With), quantile(r.Stall.With, 0.99), quantile(r.Stall.With, 1), len(r.Stall.With)), "bar p99 100 ms")
	row("  seconds without one", fmt.Sprintf("p50 %.0f ms, p99 %.0f ms, max %.0f ms over %d s", median(r.Stall.Without), quantile(r.Stall.Without, 0.99), quantile(r.Stall.Without, 1), len(r.Stall.Without)), "")
	row("database, rows/s at RPO 10 s", fmt.Sprintf("alone p50 %.1f, protected p50 %.1f: %.1f %% fewer", median(r.Slowdown.Alone), median(r.Slowdown.Protected),
		100*(1-ratio(median(r.Slowdown.Protected), median(r.Slowdown.Alone)))), "bar 5 %")
	row("snapshot call", fmt.Sprintf("p50 %.0f ms, max %.0f ms", 1000*median(r.Cycle.Call), 1000*quantile(r.Cycle.Call, 1)), "")
}

func (r results) printFull(w io.Writer) {
	row := func(what, figure, bar string) { fmt.Fprintf(w, "%-34s %-52s %s\n", what, figure, bar) }
	row("first full, 4 GiB disk", fmt.Sprintf("%.0f MB: nbdcopy p50 %.2f s; replicate %.2f s, ratio %.2f; with proof and commit %.2f s, ratio %.2f",
		float64(r.Full.Bytes)/1e6, median(r.Full.NBDCopy), median(r.Full.Replicate), ratio(median(r.Full.NBDCopy), median(r.Full.Replicate)),
		median(r.Full.Whole), ratio(median(r.Full.NBDCopy), median(r.Full.Whole))), "bar ratio 0.8")
	row("agent memory, peak", fmt.Sprintf("%.0f MiB", r.Memory), "bar 150 MB")
}
