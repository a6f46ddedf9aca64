// Package obs is what monitoring sees of Understudy: the names of the metrics, their help, and how they follow from the state
// of the protections and hosts.
package obs

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"understudy/internal/contract"
	"understudy/internal/decide/calendar"
	"understudy/internal/model"
)

// State is what the control plane answered last.
type State struct {
	Up          bool // both questions were answered in full
	Protections []contract.DescribeOut
	Hosts       []contract.HostWatchState
}

// Write sends all metrics as they are at one instant: the age of a write grows while nobody is asked.
func Write(ch chan<- prometheus.Metric, s State, now time.Time) {
	vm := []string{"vm", "uuid"}
	put := func(name, help string, kind prometheus.ValueType, labels []string, v float64, values ...string) {
		ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("understudy_"+name, help, labels, nil), kind, v, values...)
	}
	put("control_up", "1 when the control plane answered all questions of this scrape.", prometheus.GaugeValue, nil, number(s.Up))
	for _, h := range s.Hosts {
		put("host_silent", "1 while nothing is heard of the agent.", prometheus.GaugeValue, []string{"host"}, number(h.Silent), string(h.Facts.Host))
	}
	for _, d := range s.Protections {
		st, name, id := d.State, d.Spec.VM.Name, d.Spec.VM.UUID
		gauge := func(n, help string, v float64) { put(n, help, prometheus.GaugeValue, vm, v, name, id) }
		total := func(n, help string, v int64) { put(n, help, prometheus.CounterValue, vm, float64(v), name, id) }
		eff, _ := calendar.Effective(st.Policy, now)
		gauge("exposure_seconds", "Age of the oldest guest write that is in no verified point; while the primary is silent, at most that of the last look.", exposure(st, now).Seconds())
		gauge("rpo_target_seconds", "The RPO of this hour.", eff.RPO.Seconds())
		gauge("points", "Points on the standby after the newest was committed.", float64(st.Points))
		gauge("generation", "Grows with each change of the active host.", float64(st.Generation))
		gauge("cadence_seconds", "Planned distance of two captures.", st.Cadence.Interval.Seconds())
		if n := len(st.Recent); n > 0 {
			p := st.Recent[n-1]
			gauge("rpo_seconds", "Age of the newest point that can be started from; grows while an idle VM needs no new one.", max(0, now.Sub(p.TakenAt).Seconds()))
			gauge("cycle_seconds", "Snapshot to commit of the newest point.", p.CycleMS/1000)
		}
		total("replicated_bytes_total", "Bytes on the wire, both directions.", st.Totals.SentBytes)
		total("dirty_bytes_total", "Bytes that the bitmaps called dirty.", st.Totals.DirtyBytes)
		total("cycle_failures_total", "Cycles that failed.", st.Totals.Failures)
		total("missed_deadlines_total", "Times that the exposure exceeded the RPO.", st.Totals.Violations)
		for _, p := range []model.Phase{model.PhaseSeeding, model.PhaseProtected, model.PhaseDegraded, model.PhaseSuspended, model.PhaseFailingOver, model.PhaseFailed} {
			put("mode", "1 for the phase that the protection is in.", prometheus.GaugeValue, append(vm[:2:2], "phase"), number(st.Phase == p), name, id, string(p))
		}
		for _, a := range st.Alerts {
			put("alert", "1 while the protection raises this alert.", prometheus.GaugeValue, append(vm[:2:2], "name"), 1, name, id, a.Name)
		}
		if f := st.Failover; f != nil && f.EndedAt != nil {
			put("failover_seconds", "Duration of the last failover.", prometheus.GaugeValue, append(vm[:2:2], "outcome"), f.EndedAt.Sub(f.StartedAt).Seconds(), name, id, f.Outcome)
		}
	}
}

func exposure(st contract.ProtectState, now time.Time) time.Duration {
	switch {
	case st.Unreplicated != nil:
		return max(0, now.Sub(*st.Unreplicated))
	case st.HostSilent[string(st.Primary)] && st.Observed != nil:
		return max(0, now.Sub(st.Observed.At))
	}
	return 0
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
