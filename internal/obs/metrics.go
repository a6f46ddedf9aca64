// Package obs is what monitoring sees of Understudy: the names of the metrics, their help, and how they follow from the state
// of the protections and hosts.
package obs

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// State is what the control plane answered last.
type State struct {
	Up          bool   // both questions were answered in full
	Why         string // not Up
	Protections []contract.DescribeOut
	Hosts       []contract.HostWatchState
	Heard       []contract.DescribeOut // not Up: the protections that answered all the same
	HostsHeard  bool                   // not Up: the hosts did
	Version     string                 // of this server
	// CertificateEnd of this server; zero without TLS.
	CertificateEnd time.Time
	// Notify is what became of this server's messages to people; nil without receivers.
	Notify *model.NotifyFacts
}

// sheet writes the metrics of one thing; all of them carry the same labels.
type sheet struct {
	ch     chan<- prometheus.Metric
	labels []string
	values []string
}

func (s sheet) put(kind prometheus.ValueType, name, help string, v float64) {
	s.ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("understudy_"+name, help, s.labels, nil), kind, v, s.values...)
}

func (s sheet) gauge(name, help string, v float64) { s.put(prometheus.GaugeValue, name, help, v) }
func (s sheet) total(name, help string, v int64) {
	s.put(prometheus.CounterValue, name, help, float64(v))
}
func (s sheet) with(label, value string) sheet {
	return sheet{s.ch, append(s.labels[:len(s.labels):len(s.labels)], label), append(s.values[:len(s.values):len(s.values)], value)}
}

// Write sends all metrics as they are at one instant: the age of a write grows while nobody is asked.
func Write(ch chan<- prometheus.Metric, s State, now time.Time) {
	sheet{ch: ch}.gauge("control_up", "1 when the control plane answered all questions of this scrape.", number(s.Up))
	if !s.CertificateEnd.IsZero() {
		sheet{ch: ch}.gauge("server_certificate_expiry_timestamp_seconds", "When the server's certificate ends.", float64(s.CertificateEnd.Unix()))
	}
	writeNotify(sheet{ch, []string{"process", "host"}, []string{"server", ""}}, s.Notify)
	for _, h := range s.Hosts {
		writeNotify(sheet{ch, []string{"process", "host"}, []string{"agent", string(h.Facts.Host)}}, h.Facts.Notify)
		writeHost(sheet{ch, []string{"host"}, []string{string(h.Facts.Host)}}, h, s.Version)
	}
	for _, d := range s.Protections {
		writeProtection(sheet{ch, []string{"vm", "uuid"}, []string{d.Spec.VM.Name, d.Spec.VM.UUID}}, d.State, now)
	}
}

func writeNotify(s sheet, n *model.NotifyFacts) {
	if n == nil {
		return
	}
	const help = "Messages to people: delivered to a receiver, attempts that failed, and dropped because a newer one took their place or nobody took them for long."
	s.with("result", "delivered").total("notifications_total", help, n.Delivered)
	s.with("result", "failed").total("notifications_total", help, n.Failed)
	s.with("result", "dropped").total("notifications_total", help, n.Dropped)
}

func writeHost(s sheet, h contract.HostWatchState, version string) {
	f := h.Facts
	s.gauge("host_silent", "1 while nothing is heard of the agent.", number(h.Silent))
	s.total("host_false_alarms_total", "Times that the host fell silent and the same agent was heard again.", int64(h.FalseAlarms))
	s.gauge("store_free_bytes", "Free space of the file system that holds the host's replicas.", float64(f.StoreFree))
	s.gauge("store_bytes", "Size of that file system.", float64(f.StoreTotal))
	s.gauge("guard_level", "Level of the host's guard: 0 none, 1 process, 2 softdog, 3 hardware watchdog.", float64(f.Terms.GuardLevel))
	s.gauge("host_late", "VMs served here that are beyond their target by the agent's own account.", float64(len(f.Late)))
	s.gauge("version_skew", "1 when the agent's version is not the server's.", number(version != "" && f.AgentVersion != "" && f.AgentVersion != version))
	if f.CertificateEnd != nil {
		s.gauge("certificate_expiry_timestamp_seconds", "When the certificate of the host's agent ends.", float64(f.CertificateEnd.Unix()))
	}
	if f.Load != nil {
		s.gauge("host_cpu_share", "Share of all cores in use.", f.Load.CPU)
		s.gauge("link_use_share", "Share of the host's link budget in use over the last minute; 0 without a budget.", f.Load.LinkUse)
	}
}

func writeProtection(s sheet, st contract.ProtectState, now time.Time) {
	promise := PromiseOf(st, now)
	s.gauge("exposure_seconds", "Age of the oldest guest write that is in no verified point; while the primary is silent, at least that of the last look.", promise.Exposure.Seconds())
	s.gauge("rpo_target_seconds", "The RPO of this hour.", promise.Target.Seconds())
	s.gauge("points", "Points on the standby after the newest was committed.", float64(st.Points))
	s.gauge("generation", "Grows with each change of the active host.", float64(st.Generation))
	s.gauge("cadence_seconds", "Planned distance of two captures.", st.Cadence.Interval.Seconds())
	if st.Observed != nil && st.Observed.DirtyBytes >= 0 {
		s.gauge("dirty_bytes", "Bytes dirty since the newest point, at the last look.", float64(st.Observed.DirtyBytes))
	}
	if st.Observed != nil && st.Observed.Memory != nil {
		s.gauge("guest_memory_dirty_bytes_per_second", "How fast the guest dirtied its memory while it was looked at, by libvirt's estimate.", float64(st.Observed.Memory.BytesPerSecond))
	}
	for _, state := range []model.RPOState{model.RPOMet, model.RPOAtRisk, model.RPOViolated, model.RPOUnknown} {
		s.with("state", string(state)).gauge("rpo_state", "1 for the state of the RPO.", number(promise.State == state))
	}
	if n := len(st.Recent); n > 0 {
		p := st.Recent[n-1]
		s.gauge("rpo_seconds", "Age of the newest point that can be started from; grows while an idle VM needs no new one.", max(0, now.Sub(p.TakenAt).Seconds()))
		s.with("stage", "all").gauge("cycle_seconds", "Duration of the newest point's making.", p.CycleMS/1000)
		s.with("stage", "replicate").gauge("cycle_seconds", "Duration of the newest point's making.", p.ReplicateMS/1000)
		s.gauge("stall_seconds", "Pause of the guest in the newest capture.", p.StallMS/1000)
	}
	s.total("points_total", "Points committed.", st.Totals.Cycles)
	s.total("skipped_total", "Looks at an idle VM that needed no point.", st.Totals.Skipped)
	s.total("replicated_bytes_total", "Bytes on the wire, both directions.", st.Totals.SentBytes)
	s.total("dirty_bytes_total", "Bytes that the bitmaps called dirty.", st.Totals.DirtyBytes)
	s.total("cycle_failures_total", "Cycles that failed.", st.Totals.Failures)
	s.total("verify_failures_total", "Copies whose proof failed.", st.Totals.VerifyFailures)
	s.total("reseeds_total", "Points after the first that could not be a delta.", st.Totals.Reseeds)
	s.total("missed_deadlines_total", "Times that the exposure exceeded the RPO.", st.Totals.Violations)
	for _, p := range []model.Phase{model.PhaseSeeding, model.PhaseProtected, model.PhaseDegraded, model.PhaseSuspended, model.PhaseFailingOver, model.PhaseFailed} {
		s.with("phase", string(p)).gauge("mode", "1 for the phase that the protection is in.", number(st.Phase == p))
	}
	for _, a := range st.Alerts {
		s.with("name", a.Name).gauge("alert", "1 while the protection raises this alert.", 1)
	}
	stuck := 0
	if f := st.Failover; f != nil {
		if f.EndedAt != nil {
			s.with("outcome", f.Outcome).gauge("failover_seconds", "Duration of the last failover.", f.EndedAt.Sub(f.StartedAt).Seconds())
		}
		if f.Result != nil {
			stuck = len(f.Result.UndoFailed)
			for _, step := range lastOfEach(f.Result.Steps) {
				s.with("step", step.Name).gauge("failover_step_seconds", "Duration of a step of the last failover.", step.Took.Seconds())
			}
		}
	}
	s.gauge("undo_stuck", "Undo steps of the last failover that did not succeed: a person is needed.", float64(stuck))
}

// lastOfEach keeps the last run of a step that was tried on several points: one time series a name.
func lastOfEach(steps []contract.FailoverStep) []contract.FailoverStep {
	var out []contract.FailoverStep
	at := map[string]int{}
	for _, s := range steps {
		if i, seen := at[s.Name]; seen {
			out[i] = s
			continue
		}
		at[s.Name] = len(out)
		out = append(out, s)
	}
	return out
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
