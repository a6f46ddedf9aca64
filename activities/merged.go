package activities

import (
	"context"

	"go.temporal.io/sdk/activity"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// captureTries is how often a capture itself is tried, as by the snapshot activity: what is in its way does not go away soon.
const captureTries = 2

// captureAndSend is snapshot and replicate in one. A repeated attempt gets the capture that is open and goes on from what the
// standby acknowledged, like those two; a large capture is left open for replicate.
func (h *Host) captureAndSend(ctx context.Context, in contract.CaptureAndSendIn) (contract.CaptureAndSendOut, error) {
	b := startBeat(ctx)
	defer b.end()
	if err := h.admit(in.Capture.Fence); err != nil {
		return contract.CaptureAndSendOut{}, toWire(err)
	}
	h.Watcher.Answering(in.Capture.VM, model.PointRef{Generation: in.Capture.Generation, Seq: in.Capture.Seq})
	taken, err := h.take(ctx, in.Capture)
	if err != nil {
		return contract.CaptureAndSendOut{}, toWire(lastTry(ctx, err))
	}
	out := contract.CaptureAndSendOut{Capture: taken}
	b.keep(contract.ReplicateProgress{TotalBytes: taken.DirtyBytes}, taken)
	if large(taken, in.Below) {
		return out, nil
	}
	sent, err := h.send(ctx, in.Send, b)
	if err != nil {
		return contract.CaptureAndSendOut{}, toWire(err, taken)
	}
	out.Sent = &sent
	return out, nil
}

// large says that sending is not over in a moment: by its size, or because whole disks are compared or copied.
func large(taken contract.SnapshotOut, below int64) bool {
	for _, d := range taken.Disks {
		if d.Mode != model.ModeDelta {
			return true
		}
	}
	return taken.DirtyBytes >= below
}

// lastTry makes a failure to capture final when it was tried often enough.
func lastTry(ctx context.Context, err error) error {
	if activity.GetInfo(ctx).Attempt < captureTries {
		return err
	}
	return final{err}
}

// final is a failure that is not tried again, whatever its kind.
type final struct{ error }

func (f final) Unwrap() error { return f.error }
