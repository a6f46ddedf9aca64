package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
	"time"

	"understudy/deploy/lab/labkit"
)

const (
	cadenceRPO  = 20 * time.Second
	cadenceSpan = 180 * time.Second
	strikeEvery = 40 * time.Second
)

// scheduled is what one guest had under one schedule.
type scheduled struct {
	Workload string  `json:"workload"`
	Schedule string  `json:"schedule"`
	Cycles   int     `json:"cycles"`
	Sent     int64   `json:"sent_bytes"`
	P50      float64 `json:"exposure_p50_s"` // of the peaks, one a point
	Max      float64 `json:"exposure_max_s"`
	Late     int     `json:"late"` // points whose peak was beyond the RPO
	Failed   int64   `json:"failed_cycles"`
	Rows     float64 `json:"rows_per_s,omitempty"`
}

// schedules compares the product's cadence with fixed intervals on guests of the same kind that run beside each other. A fixed one is a
// protection whose own law never starts (RPO 1 h), told to sync each so many seconds. The link carries about twice what they send, and the
// standby's agent dies once in a transfer of each: what all of them send at that moment fails and has to be sent again.
func (b *bench) schedules(ctx context.Context) error {
	for _, workload := range b.workloads {
		if err := b.workload(ctx, workload); err != nil {
			return fmt.Errorf("%s: %w", workload, err)
		}
	}
	return nil
}

func (b *bench) workload(ctx context.Context, workload string) error {
	every := map[string]time.Duration{"adaptive": 0, "fixed RPO/2": cadenceRPO / 2, "fixed 0.9 RPO": cadenceRPO * 9 / 10}
	names := []string{"adaptive", "fixed RPO/2", "fixed 0.9 RPO"}
	watchers := map[string]*labkit.Watcher{}
	flags := []string{"--workload", workload, "--disk", "512M"}
	link := ""
	switch workload {
	case "db":
		flags, link = append(flags, "--rate", "20"), "800kbit" // rows/s
	case "churn":
		flags, link = append(flags, "--rate", "1M", "--working-set", "32M"), "48mbit" // bytes/s
	}
	for i, n := range names {
		vm := fmt.Sprintf("%s%d", workload, i)
		w, err := b.guest(ctx, vm, flags...)
		if err != nil {
			return err
		}
		defer w.Close()
		watchers[n] = w
		rpo := cadenceRPO
		if every[n] > 0 {
			rpo = time.Hour
		}
		if _, err := b.lab.CLI(ctx, "protect", "--standby", hostB, "--rpo", rpo.String(), "--keep-last", "400", "--failover", "manual", "--wait", vm); err != nil {
			return err
		}
	}
	if _, err := b.lab.Run(ctx, "slow", hostA, "--rate", link); err != nil {
		return err
	}
	defer func() { _, _ = b.lab.Run(context.WithoutCancel(ctx), "slow", hostA, "--off") }()
	if err := wait(ctx, cadenceSpan/5); err != nil { // the law learns
		return err
	}
	began := time.Now()
	spanCtx, cancel := context.WithTimeout(ctx, cadenceSpan)
	defer cancel()
	done := make(chan struct{}, len(names))
	for i, n := range names {
		go func() {
			defer func() { done <- struct{}{} }()
			for every[n] > 0 && wait(spanCtx, every[n]) == nil {
				_, _ = b.lab.CLI(spanCtx, "sync", fmt.Sprintf("%s%d", workload, i)) // one that fails is in the figures
			}
		}()
	}
	for i := range names {
		if err := wait(ctx, time.Until(began.Add(time.Duration(i+1)*strikeEvery))); err != nil {
			return err
		}
		if err := b.strike(ctx, fmt.Sprintf("%s%d", workload, i)); err != nil {
			return err
		}
	}
	if err := wait(ctx, time.Until(began.Add(cadenceSpan))); err != nil {
		return err
	}
	for range names {
		<-done
	}
	for i, n := range names {
		vm := fmt.Sprintf("%s%d", workload, i)
		out, err := b.measured(ctx, vm, began)
		if err != nil {
			return err
		}
		out.Workload, out.Schedule = workload, n
		for _, a := range watchers[n].Acks() {
			if a.At.After(began) {
				out.Rows += 1 / cadenceSpan.Seconds()
			}
		}
		b.out.Schedules = append(b.out.Schedules, out)
	}
	for i := range names {
		vm := fmt.Sprintf("%s%d", workload, i)
		if err := b.unprotect(ctx, vm); err != nil {
			return err
		}
		if err := b.remove(ctx, vm); err != nil {
			return err
		}
	}
	return nil
}

// strike kills the standby's agent in the middle of a transfer of that VM; the lab starts it again after a second.
func (b *bench) strike(ctx context.Context, vm string) error {
	ctx, cancel := context.WithTimeout(ctx, strikeEvery)
	defer cancel()
	moving := []string{"replicate", "capture and send"} // in stages, or merged in one
	_, err := b.lab.WaitStatus(ctx, vm, "a transfer of "+vm, func(p labkit.Protection) bool { return p.InFlight != nil && slices.Contains(moving, p.InFlight.Stage) })
	if err != nil {
		return err
	}
	_, err = b.lab.Exec(ctx, hostB, "pkill", "-9", "-f", "[u]nderstudy agent")
	return err
}

// measured reads the points of a window. A guest that writes all the time writes just after each capture, and that write is in no
// verified point until the next one is.
func (b *bench) measured(ctx context.Context, vm string, from time.Time) (scheduled, error) {
	var out scheduled
	points, err := b.lab.Points(ctx, vm)
	if err != nil {
		return out, err
	}
	var peaks []float64
	for i := 1; i < len(points); i++ {
		if points[i-1].TakenAt.Before(from) {
			continue // its exposure began before the window
		}
		_, _, sent := points[i].Sum()
		peak := points[i].VerifiedAt.Sub(points[i-1].TakenAt)
		peaks = append(peaks, peak.Seconds())
		out.Cycles++
		out.Sent += sent
		if peak > cadenceRPO {
			out.Late++
		}
	}
	if len(peaks) == 0 {
		return out, fmt.Errorf("no point of %s was made", vm)
	}
	sort.Float64s(peaks)
	out.P50, out.Max = peaks[len(peaks)/2], peaks[len(peaks)-1]
	st, err := b.lab.Status(ctx, vm)
	out.Failed = st.Totals.Failures
	return out, err
}

func (r *results) printSchedules(w io.Writer) {
	fmt.Fprintf(w, "%s\nRPO %s, %s each, the standby's agent killed in a transfer of each\n\n", r.Machine, cadenceRPO, cadenceSpan)
	fmt.Fprintln(w, "| workload | schedule | points | failed cycles | sent MB | exposure peak p50 s | max s | late | rows/s |\n|---|---|---|---|---|---|---|---|---|")
	for _, s := range r.Schedules {
		rows := "-"
		if s.Rows > 0 {
			rows = fmt.Sprintf("%.1f", s.Rows)
		}
		fmt.Fprintln(w, "| "+strings.Join([]string{
			s.Workload, s.Schedule, fmt.Sprint(s.Cycles), fmt.Sprint(s.Failed), fmt.Sprintf("%.2f", float64(s.Sent)/1e6), fmt.Sprintf("%.1f", s.P50),
			fmt.Sprintf("%.1f", s.Max), fmt.Sprint(s.Late), rows,
		}, " | ")+" |")
	}
}
