package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"understudy/internal/contract"
	"understudy/internal/durable"
	"understudy/internal/model"
)

// signalReport is one thing that monitoring says.
type signalReport struct {
	source, alert, vm, reason string
	key                       string // of repeats; empty: none can be recognised
	startsAt                  time.Time
	resolved                  bool
	missing                   string // the label that the rules want and it does not have
}

type answer struct {
	MessageType string    `json:"message_type"` // "webhook"
	DryRun      bool      `json:"dry_run"`
	Alerts      []verdict `json:"alerts"`
}

// verdict is the answer to one alert. Outcome: signalled, would_signal, repeat, resolved, ignored, superseded, unknown_vm,
// limited, failed (send it again).
type verdict struct {
	Alert   string `json:"alert,omitempty"`
	VM      string `json:"vm,omitempty"`
	Outcome string `json:"outcome"`
	Detail  string `json:"detail,omitempty"`
}

func alertmanager(label string, rules map[string]string) func([]byte) ([]signalReport, error) {
	return func(b []byte) ([]signalReport, error) {
		var m struct {
			Alerts []struct {
				Status, Fingerprint string
				Labels, Annotations map[string]string
				StartsAt            time.Time
			}
		}
		if err := json.Unmarshal(b, &m); err != nil || m.Alerts == nil {
			return nil, errors.New("this is not Alertmanager's webhook JSON")
		}
		var out []signalReport
		for _, a := range m.Alerts {
			r := signalReport{source: "alertmanager", alert: a.Labels["alertname"], vm: a.Labels[label], startsAt: a.StartsAt, resolved: a.Status != "firing"}
			r.reason, r.missing = r.alert, missing(a.Labels, rules)
			if s := a.Annotations["summary"]; s != "" {
				r.reason += ": " + s[:min(len(s), 500)]
			}
			if a.Fingerprint != "" {
				r.key = a.Fingerprint + "@" + a.StartsAt.UTC().Format(time.RFC3339Nano)
			}
			out = append(out, r)
		}
		return out, nil
	}
}

// missing is the first rule, by name, that the labels do not satisfy.
func missing(labels, rules map[string]string) string {
	for _, name := range slices.Sorted(maps.Keys(rules)) {
		if labels[name] != rules[name] {
			return name + "=" + rules[name]
		}
	}
	return ""
}

const maxID = 200

// plain takes what scripts say. An id makes a repeat known; one that is used for another failure of the VM later is not acted
// upon, so it is the id of the incident.
func plain(b []byte) ([]signalReport, error) {
	var m struct{ VM, Reason, ID string }
	if err := json.Unmarshal(b, &m); err != nil || m.VM == "" || m.Reason == "" || len(m.ID) > maxID {
		return nil, errors.New(`this is not {"vm": "…", "reason": "…", "id": "… (optional)"}`)
	}
	r := signalReport{source: "webhook", vm: m.VM, reason: m.Reason[:min(len(m.Reason), 500)]}
	if m.ID != "" {
		r.key = "id:" + m.ID
	}
	return []signalReport{r}, nil
}

func (h *webhook) judge(ctx context.Context, r signalReport) verdict {
	say := func(outcome, detail string) verdict { return verdict{r.alert, r.vm, outcome, detail} }
	switch {
	case r.resolved:
		return say("resolved", "")
	case r.vm == "":
		return say("ignored", "it has no label "+h.o.VMLabel)
	case r.missing != "":
		return say("ignored", "it has no label "+r.missing)
	case strings.HasPrefix(r.alert, ownAlerts):
		return say("ignored", "an alert of Understudy's own is no reason for a failover")
	}
	d, err := h.plane.Find(ctx, r.vm)
	switch kind := model.KindOf(err); {
	case err == nil:
	case kind == model.NotFound, kind == model.Conflict:
		return say("unknown_vm", err.Error())
	default:
		return say("failed", err.Error())
	}
	// What began before the last failover ended was about the old copy.
	if f := d.State.Failover; f != nil && f.Outcome == contract.OutcomeDone && f.EndedAt != nil && !r.startsAt.IsZero() && r.startsAt.Before(*f.EndedAt) {
		return say("superseded", "a failover ended after this alert began")
	}
	key := r.key
	if key != "" {
		key = d.Spec.VM.UUID + "/" + key
	}
	old, known := h.seen.at[key]
	switch {
	case key == "":
	case known && old.Sent:
		return say("repeat", "")
	case known && old.Generation != d.State.Generation:
		return say("superseded", "the VM changed its host since this alert was first seen")
	}
	if h.o.DryRun {
		return say("would_signal", "dry run")
	}
	pace := h.paceOf(d.Spec.VM.UUID)
	if pace.Tokens() < 1 {
		return say("limited", fmt.Sprintf("more than %d signals for this VM, then one each %s", vmSignals, vmEvery))
	}
	// Noted before and after: after a crash in between, the generation says whether the signal was acted upon.
	if err := h.seen.note(key, d.State.Generation, false); err != nil {
		return say("failed", err.Error())
	}
	if err := h.plane.Crash(ctx, d.Spec.VM.UUID, contract.CrashIn{Source: r.source, Reason: r.reason}); err != nil {
		return say("failed", err.Error())
	}
	pace.Allow() // only what was said counts: while the control plane is away nobody is slowed down
	if err := h.seen.note(key, d.State.Generation, true); err != nil {
		h.log.Error("webhook_note", "error", err) // the generation noted before still tells a repeat
	}
	return say("signalled", "")
}

// paceOf is asked in turn only. VMs that are protected bound its size.
func (h *webhook) paceOf(vmUUID string) *rate.Limiter {
	l, known := h.pace[vmUUID]
	if !known {
		l = rate.NewLimiter(rate.Every(vmEvery), vmSignals)
		h.pace[vmUUID] = l
	}
	return l
}

const maxSeen = 4096

type seenAlert struct {
	Generation model.Generation `json:"generation"`
	Sent       bool             `json:"sent"`
	At         time.Time        `json:"at"`
}

// seenAlerts outlives the server: a repeat after a restart must not move a VM that was saved already.
type seenAlerts struct {
	path string
	now  func() time.Time
	at   map[string]seenAlert
}

func openSeen(path string, now func() time.Time) (*seenAlerts, error) {
	s := &seenAlerts{path: path, now: now, at: map[string]seenAlert{}}
	if err := durable.ReadJSON(path, &s.at); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, model.Fail(model.Internal, err, "the webhook's memory cannot be read").WithTry("remove " + path + " when no alert fires")
	}
	return s, nil
}

func (s *seenAlerts) note(key string, g model.Generation, sent bool) error {
	if key == "" {
		return nil
	}
	s.at[key] = seenAlert{g, sent, s.now()}
	for len(s.at) > maxSeen {
		oldest := key
		for k, v := range s.at {
			if v.At.Before(s.at[oldest].At) {
				oldest = k
			}
		}
		delete(s.at, oldest)
	}
	return durable.WriteJSON(s.path, s.at)
}
