package labkit

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Status is the documented JSON of `understudy status`, as far as the demo and the tests read it (docs/CLI.md).
type Status struct {
	MessageType string       `json:"message_type"`
	Protections []Protection `json:"protections"`
}

// Protection is one protected VM.
type Protection struct {
	VM         string `json:"vm"`
	UUID       string `json:"uuid"`
	Phase      string `json:"phase"`
	Primary    string `json:"primary"`
	Standby    string `json:"standby"`
	Generation uint64 `json:"generation"`
	RPO        struct {
		Target   float64 `json:"target_s"`
		Exposure float64 `json:"exposure_s"`
		State    string  `json:"state"`
	} `json:"rpo"`
	Cadence struct {
		Interval float64 `json:"interval_s"`
		Reason   string  `json:"reason"`
		Binding  string  `json:"binding"`
	} `json:"cadence"`
	LastPoint *struct {
		Seq        uint64    `json:"seq"`
		TakenAt    time.Time `json:"taken_at"`
		VerifiedAt time.Time `json:"verified_at"`
		DirtyBytes int64     `json:"dirty_bytes"`
		SentBytes  int64     `json:"sent_bytes"`
		Mode       string    `json:"mode"`
		Stall      float64   `json:"stall_ms"`
		Cycle      float64   `json:"cycle_ms"`
		Replicate  float64   `json:"replicate_ms"`
	} `json:"last_point"`
	Lease *struct {
		Mode       string  `json:"mode"`
		WaitS      float64 `json:"wait_s"`
		GuardLevel int     `json:"guard_level"`
		Why        string  `json:"why"`
	} `json:"lease"`
	Totals struct {
		Failures int64 `json:"failures"`
	} `json:"totals"`
	InFlight *struct {
		Stage string `json:"stage"`
	} `json:"in_flight"`
	Points   int              `json:"points"`
	Failover *json.RawMessage `json:"failover"`
	Alerts   []Alert          `json:"alerts"`
}

// Alert is a state that a person should know of.
type Alert struct {
	Name   string `json:"name"`
	Detail string `json:"detail"`
}

// Raised says whether the alert of that name stands.
func (p Protection) Raised(name string) bool {
	return slices.ContainsFunc(p.Alerts, func(a Alert) bool { return a.Name == name })
}

// Points is the documented JSON of `understudy points`.
type Points struct {
	MessageType string  `json:"message_type"`
	Points      []Point `json:"points"`
}

// Point is one recovery point.
type Point struct {
	Seq        uint64    `json:"seq"`
	Generation uint64    `json:"generation"`
	TakenAt    time.Time `json:"taken_at"`
	VerifiedAt time.Time `json:"verified_at"`
	Stall      float64   `json:"stall_ms"`
	Disks      []struct {
		Target       string `json:"target"`
		Mode         string `json:"mode"`
		Reason       string `json:"reason"`
		DirtyBytes   int64  `json:"dirty_bytes"`
		ChangedBytes int64  `json:"changed_bytes"`
		SentBytes    int64  `json:"sent_bytes"`
	} `json:"disks"`
	BytesOnDisk int64 `json:"bytes_on_disk"`
}

// Sum adds up one figure over the disks of a point.
func (p Point) Sum() (dirty, changed, sent int64) {
	for _, d := range p.Disks {
		dirty, changed, sent = dirty+d.DirtyBytes, changed+d.ChangedBytes, sent+d.SentBytes
	}
	return dirty, changed, sent
}

// Status asks the control plane about one VM.
func (l *Lab) Status(ctx context.Context, vm string) (Protection, error) {
	var s Status
	if err := l.json(ctx, &s, "status", vm, "--output", "json"); err != nil {
		return Protection{}, err
	}
	if len(s.Protections) != 1 {
		return Protection{}, fmt.Errorf("status %s names %d protections", vm, len(s.Protections))
	}
	return s.Protections[0], nil
}

// Points asks for the recovery points of a VM, oldest first.
func (l *Lab) Points(ctx context.Context, vm string) ([]Point, error) {
	var p Points
	err := l.json(ctx, &p, "points", vm, "--output", "json")
	return p.Points, err
}

// json runs the CLI with flags before the argument and decodes what it prints. Exit 3 (done, but a VM is outside its
// promise) is an answer like any other here.
func (l *Lab) json(ctx context.Context, v any, verb, vm string, flags ...string) error {
	out, err := l.CLI(ctx, append(append([]string{verb}, flags...), vm)...)
	if exit, ok := err.(*ExitError); ok && exit.Code == 3 { //nolint:errorlint // run returns it bare
		out, err = exit.Stdout, nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), v); err != nil {
		return fmt.Errorf("understudy %s printed no JSON: %w: %.200s", verb, err, out)
	}
	return nil
}

// WaitStatus asks until want accepts the answer. There is no event to wait for outside the software under test, so it
// asks four times a second.
func (l *Lab) WaitStatus(ctx context.Context, vm, what string, want func(Protection) bool) (Protection, error) {
	var last Protection
	var lastErr error
	for {
		last, lastErr = l.Status(ctx, vm)
		if lastErr == nil && want(last) {
			return last, nil
		}
		select {
		case <-ctx.Done():
			b, _ := json.Marshal(last)
			return last, fmt.Errorf("%s did not become true: %w; last status %s, last error %w", what, ctx.Err(), b, lastErr)
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// WaitHosts waits until n hosts are known to the control plane and heard.
func (l *Lab) WaitHosts(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	var last error
	for {
		var h struct {
			Hosts []struct {
				Host   string `json:"host"`
				Silent bool   `json:"silent"`
			} `json:"hosts"`
		}
		out, err := l.CLI(ctx, "hosts", "--output", "json")
		if err == nil {
			err = json.Unmarshal([]byte(out), &h)
		}
		heard := 0
		for _, x := range h.Hosts {
			if !x.Silent {
				heard++
			}
		}
		if err == nil && heard >= n {
			return nil
		}
		if err != nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d hosts were heard: %w (last error: %w)", heard, n, ctx.Err(), last)
		case <-time.After(250 * time.Millisecond):
		}
	}
}
