package workflows

import (
	"context"
	"errors"

	"go.temporal.io/sdk/temporal"

	"understudy/internal/contract"
	"understudy/internal/model"
)

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
