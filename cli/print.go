package cli

import (
	"fmt"
	"strings"
	"time"

	"understudy/internal/contract"
	"understudy/internal/model"
	"understudy/internal/ui"
)

// line prints one line of the answer.
func (c *call) line(format string, args ...any) error {
	_, err := fmt.Fprintf(c.out, format+"\n", args...)
	return err
}

func summaryTable(c *call, views []protectionView) error {
	if len(views) == 0 {
		fmt.Fprintln(c.err, "nothing is protected. Try: understudy protect --standby HOST VM")
		return nil
	}
	now := c.now()
	rows := make([][]string, 0, len(views))
	for _, v := range views {
		last := "-"
		if v.LastPoint != nil {
			last = fmt.Sprintf("%d, %s", v.LastPoint.Seq, ui.Ago(v.LastPoint.VerifiedAt, now))
		}
		rows = append(rows, []string{
			v.VM, string(v.Phase), string(v.Primary), string(v.Standby), fmt.Sprint(v.Generation),
			fmt.Sprintf("%s of %s", ui.Duration(seconds(v.RPO.Exposure)), ui.Duration(seconds(v.RPO.Target))),
			string(v.RPO.State), last, fmt.Sprint(v.Points),
		})
	}
	header := []string{"VM", "PHASE", "PRIMARY", "STANDBY", "GEN", "EXPOSURE", "RPO", "LAST POINT", "POINTS"}
	if err := paintedRows(c, header, rows, views); err != nil {
		return err
	}
	for _, v := range views {
		for _, l := range remarks(v, now) {
			if err := c.line("%s: %s", v.VM, l); err != nil {
				return err
			}
		}
	}
	return nil
}

// paintedRows marks what is outside of its promise, or close to it.
func paintedRows(c *call, header []string, rows [][]string, views []protectionView) error {
	if !c.colour {
		return ui.Rows(c.out, header, rows)
	}
	var b strings.Builder
	if err := ui.Rows(&b, header, rows); err != nil {
		return err
	}
	for i, l := range strings.Split(strings.TrimRight(b.String(), "\n"), "\n") {
		colour := ui.Plain
		switch {
		case i == 0:
			colour = ui.Bold
		case views[i-1].outside():
			colour = ui.Red
		case views[i-1].RPO.State == model.RPOAtRisk || views[i-1].Phase != model.PhaseProtected:
			colour = ui.Yellow
		}
		if err := c.line("%s", ui.Paint(colour, l)); err != nil {
			return err
		}
	}
	return nil
}

// remarks are what a person should know beside the figures.
func remarks(v protectionView, now time.Time) []string {
	var out []string
	if f := v.Failover; f != nil && f.HeldUntil != nil {
		out = append(out, held(v.VM, f.To, max(0, f.HeldUntil.Sub(now))))
	}
	if v.Reason != "" {
		out = append(out, v.Reason)
	}
	for _, a := range v.Alerts {
		text := "alert " + a.Name + ": " + a.Detail
		if a.Try != "" {
			text += ". Try: " + a.Try
		}
		out = append(out, text)
	}
	return out
}

// held says what a person can decide about a failover that waits for it.
func held(vm string, to model.HostID, left time.Duration) string {
	return fmt.Sprintf("it runs on %s on probation. Keep it: understudy commit %s. Take it back: understudy rollback %s. It commits by itself in %s",
		to, vm, vm, ui.Duration(left))
}

// story prints all that is known of one protection.
func story(c *call, v protectionView) error {
	if err := summaryTable(c, []protectionView{v}); err != nil {
		return err
	}
	now := c.now()
	var b strings.Builder
	if v.Cadence.Reason != "" {
		next := ""
		if v.Cadence.NextAt != nil {
			next = fmt.Sprintf(" in %s", ui.Duration(max(0, v.Cadence.NextAt.Sub(now))))
		}
		gear := ""
		if v.Cadence.Gear != "" {
			gear = ", gear " + v.Cadence.Gear
		}
		fmt.Fprintf(&b, "next point%s: %s (%s%s)\n", next, v.Cadence.Reason, v.Cadence.Binding, gear)
	}
	if v.InFlight != nil {
		fmt.Fprintf(&b, "point %d: %s, since %s\n", v.InFlight.Seq, v.InFlight.Stage, ui.Duration(max(0, now.Sub(v.InFlight.StartedAt))))
	}
	if p := v.LastPoint; p != nil {
		fmt.Fprintf(&b, "last point: %s, %s-consistent, %s dirty, %s sent, stall %.0f ms\n",
			p.Mode, p.Consistency, ui.Bytes(p.DirtyBytes), ui.Bytes(p.SentBytes), p.Stall)
	}
	fmt.Fprintf(&b, "policy: RPO %s, %s, failover %s, keep %d points, compression %s", ui.Duration(seconds(v.Policy.RPO)), v.Policy.Tier,
		v.Policy.Failover, v.Policy.KeepLast, v.Policy.Compression)
	if v.Policy.Bandwidth > 0 {
		fmt.Fprintf(&b, ", at most %s/s", ui.Bytes(v.Policy.Bandwidth))
	}
	b.WriteString(limits(v.Policy))
	fmt.Fprintf(&b, "\nsince the beginning: %d points, %d failed, %s sent, largest exposure %s, %d violations\n", v.Totals.Cycles, v.Totals.Failures,
		ui.Bytes(v.Totals.SentBytes), ui.Duration(seconds(v.Totals.MaxExposure)), v.Totals.Violations)
	if w := v.Lease.words(); w != "" {
		fmt.Fprintf(&b, "lease: %s\n", w)
	}
	for _, w := range v.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", w)
	}
	if v.LastError != "" {
		fmt.Fprintf(&b, "last error: %s\n", v.LastError)
	}
	if t := v.LastTest; t != nil {
		result := fmt.Sprintf("passed, %s after %s", t.Answered, ui.Duration(seconds(t.RTO)))
		if !t.Passed {
			result = "FAILED: " + t.Error
		}
		fmt.Fprintf(&b, "last test failover: point %d on %s, %s ago: %s\n", t.Seq, t.Host, ui.Duration(max(0, now.Sub(t.StartedAt))), result)
	}
	if r := v.Rescue; r != nil && r.Unreplicated != nil && *r.Unreplicated > 0 {
		fmt.Fprintf(&b, "rescue copy on %s: %s that were in no point, in %s\n", r.Host, ui.Bytes(*r.Unreplicated), strings.Join(r.Disks, ", "))
	}
	if f := v.Failover; f != nil {
		outcome := f.Outcome
		switch {
		case outcome == "" && f.HeldUntil != nil:
			outcome = "held"
		case outcome == "":
			outcome = "running"
		}
		what := "failover"
		if f.Planned {
			what = "switchover"
		}
		fmt.Fprintf(&b, "%s to generation %d, %s to %s: %s (%s)\n", what, f.Generation, f.From, f.To, outcome, f.Reason)
		if f.Error != "" {
			fmt.Fprintf(&b, "  %s\n", f.Error)
		}
		for _, s := range f.Steps {
			fmt.Fprintf(&b, "  %s\n", stepLine(s, f.StartedAt))
		}
	}
	return c.line("%s", strings.TrimRight(b.String(), "\n"))
}

func stepLine(s stepView, start time.Time) string {
	detail := s.Detail
	if s.Error != "" {
		detail = strings.TrimSpace(detail + " FAILED: " + s.Error)
	}
	return strings.TrimRight(fmt.Sprintf("%+6.1f s  %-12s %s", s.At.Sub(start).Seconds(), s.Name, detail), " ")
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// copyLine is the progress of a cycle under way, in one line.
func copyLine(d contract.DescribeOut, p *contract.ReplicateProgress, now time.Time) string {
	st := d.State
	if st.InFlight == nil {
		if st.LastError != "" {
			return fmt.Sprintf("%s: waiting to try again; the last try failed: %s", d.Spec.VM.Name, st.LastError)
		}
		return fmt.Sprintf("%s: waiting for the first point to begin", d.Spec.VM.Name)
	}
	head := fmt.Sprintf("%s: point %d: %s", d.Spec.VM.Name, st.InFlight.Seq, st.InFlight.Stage)
	if st.InFlight.Stage != "replicate" || p == nil || p.TotalBytes <= 0 {
		return fmt.Sprintf("%s, %s", head, ui.Duration(max(0, now.Sub(st.InFlight.StartedAt))))
	}
	share := float64(p.DoneBytes) / float64(p.TotalBytes)
	text := fmt.Sprintf("%s %s [%s] %3.0f %% of %s, %s sent", head, p.Disk, ui.Bar(share, 20), 100*share, ui.Bytes(p.TotalBytes), ui.Bytes(p.SentBytes))
	if p.Rate > 0 {
		left := time.Duration(float64(p.TotalBytes-p.DoneBytes) / p.Rate * float64(time.Second))
		text += fmt.Sprintf(", %s/s, %s left", ui.Bytes(int64(p.Rate)), ui.Duration(max(0, left)))
	}
	return text
}

// evidenceLine says why the old VM counts as off.
func evidenceLine(ev *model.Evidence) string {
	if ev == nil {
		return "none"
	}
	return fmt.Sprintf("%s by %s: %s", ev.Kind, ev.By, ev.Detail)
}
