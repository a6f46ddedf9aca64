package workflows

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"go.temporal.io/sdk/temporal"

	"understudy/internal/contract"
	"understudy/internal/model"
)

func (w *world) serveStages() {
	snapshot := func(h *fakeHost, in contract.SnapshotIn) (contract.SnapshotOut, error) {
		if err := h.admit(in.Fence); err != nil {
			return contract.SnapshotOut{}, err
		}
		if !h.running {
			return contract.SnapshotOut{}, refusal(model.NotRunning)
		}
		w.taken = append(w.taken, in)
		mode := model.ModeDelta
		switch {
		case in.Parent.IsZero():
			mode = model.ModeFull
		case in.ForceResync != "":
			mode = model.ModeResync
		}
		now, wrote := w.now(), max(w.dirty, 1<<20)
		if w.pace > 0 && !w.captured.IsZero() {
			wrote = int64(now.Sub(w.captured).Seconds() * steadyRate)
		}
		origin := w.oldestWrite(now)
		w.captured = now
		stalled := 0.0
		if w.stall != nil {
			stalled = w.stall(in)
		}
		return contract.SnapshotOut{
			StallMS: stalled,
			Point:   model.PointRef{Generation: in.Generation, Seq: in.Seq}, TakenAt: now, Consistency: model.CrashConsistent, Origin: origin,
			Disks: []model.SnapshotDisk{{Disk: model.Disk{Target: "vda"}, Mode: mode}}, DirtyBytes: wrote,
			WrittenBytes: wrote,
		}, nil
	}
	replicate := func(h *fakeHost, in contract.ReplicateIn) (contract.ReplicateOut, error) {
		w.sent = append(w.sent, in)
		out := contract.ReplicateOut{SentBytes: 1000, Disks: []contract.DiskStats{{Target: "vda", ChangedBytes: 2000}}}
		if w.slow != nil {
			out.SentBytes, out.Took = 1<<20, w.slow()
			out.Disks[0].ChangedBytes = 1 << 20
		}
		if w.cpu != nil {
			out.CPU = w.cpu(in)
		}
		if !in.From.IsZero() {
			out.Compared, out.Disks[0].UnreplicatedBytes = true, w.unreplicated
		}
		return out, h.admit(in.Fence)
	}
	serve(w, contract.Snapshot, snapshot)
	serve(w, contract.Replicate, replicate)
	w.serveMerged(snapshot, replicate)
	serve(w, contract.Verify, func(h *fakeHost, in contract.VerifyIn) (contract.VerifyOut, error) {
		if err := h.admit(in.Fence); err != nil {
			return contract.VerifyOut{}, err
		}
		now := w.now()
		for _, p := range h.points {
			if p.PointRef == in.Point {
				return contract.VerifyOut{Point: in.Point, VerifiedAt: p.VerifiedAt, AtRest: h.atRest}, nil
			}
		}
		w.built = append(w.built, in)
		h.points = append(h.points, contract.PointView{PointRef: in.Point, TakenAt: in.TakenAt, VerifiedAt: now, Primary: in.Primary})
		return contract.VerifyOut{Point: in.Point, VerifiedAt: now, Points: len(h.points), AtRest: h.atRest}, nil
	})
	serve(w, contract.Settle, func(h *fakeHost, in contract.SettleIn) (contract.SettleOut, error) {
		out := contract.SettleOut{}
		if in.Look {
			o := w.look(h)
			out.Observed = &o
		}
		return out, h.admit(in.Fence)
	})
	serve(w, contract.Abandon, func(h *fakeHost, in contract.PointIn) (contract.SettleOut, error) {
		return contract.SettleOut{}, h.admit(in.Fence)
	})
	serve(w, contract.Discard, func(h *fakeHost, in contract.PointIn) (contract.None, error) {
		return contract.None{}, h.admit(in.Fence)
	})
	serve(w, contract.Prune, func(h *fakeHost, in contract.PruneIn) (contract.PruneOut, error) {
		w.pruned = append(w.pruned, in)
		return contract.PruneOut{}, h.admit(in.Fence)
	})
	serve(w, contract.Points, func(h *fakeHost, _ contract.PointsIn) (contract.PointsOut, error) {
		return contract.PointsOut{Points: slices.Clone(h.points)}, nil
	})
}

func (w *world) oldestWrite(now time.Time) *time.Time {
	t := w.captured.Add(cmp.Or(w.pace, time.Second))
	if w.idle || t.After(now) {
		return nil
	}
	if w.captured.IsZero() {
		t = now
	}
	return &t
}

func (w *world) look(h *fakeHost) model.Observation {
	now := w.now()
	o := model.Observation{At: now, Running: h.running, State: "running", DirtyBytes: 0, SamplePeriod: 1, Terms: w.terms()}
	if !h.running {
		o.State = "shut off"
	}
	if !w.idle {
		o.OldestWrite, o.DirtyBytes, o.WriteReqs, o.WrittenBytes = w.oldestWrite(now), 1<<20, 10, 1<<20
	}
	if w.pace > 0 {
		o.DirtyBytes = int64(now.Sub(w.captured).Seconds() * steadyRate)
		o.WrittenBytes = o.DirtyBytes
	}
	return o
}

// serveMerged is capture-and-send made of the same two works, so that what is in the way of either is in the way of it: faults,
// hooks and counts by their names work in both gears.
func (w *world) serveMerged(
	snapshot func(*fakeHost, contract.SnapshotIn) (contract.SnapshotOut, error),
	replicate func(*fakeHost, contract.ReplicateIn) (contract.ReplicateOut, error),
) {
	contract.CaptureAndSend.Register(w.reg, func(ctx context.Context, in contract.CaptureAndSendIn) (contract.CaptureAndSendOut, error) {
		return visit(ctx, w, contract.CaptureAndSend, in, func(*fakeHost, contract.CaptureAndSendIn) (out contract.CaptureAndSendOut, err error) {
			w.mu.Unlock() // visit holds it
			defer w.mu.Lock()
			if out.Capture, err = visit(ctx, w, contract.Snapshot, in.Capture, snapshot); err != nil {
				return out, err
			}
			if out.Capture.DirtyBytes >= in.Below || out.Capture.Disks[0].Mode != model.ModeDelta {
				return out, nil
			}
			w.mu.Lock()
			w.together = append(w.together, in.Capture.Seq)
			w.mu.Unlock()
			sent, err := visit(ctx, w, contract.Replicate, in.Send, replicate)
			out.Sent = &sent
			return out, carrying(err, out.Capture)
		})
	})
}

// carrying adds what was captured to a failure of sending it, as the agent and its heartbeats do.
func carrying(err error, taken contract.SnapshotOut) error {
	var app *temporal.ApplicationError
	var timeout *temporal.TimeoutError
	switch {
	case errors.As(err, &app):
		return temporal.NewApplicationErrorWithOptions(app.Message(), app.Type(), temporal.ApplicationErrorOptions{
			NonRetryable: app.NonRetryable(), Details: []any{contract.Detail{VM: theVM.Name}, taken},
		})
	case errors.As(err, &timeout):
		return temporal.NewTimeoutError(timeout.TimeoutType(), nil, contract.ReplicateProgress{}, taken)
	}
	return err
}
