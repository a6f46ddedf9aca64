package contract

import "understudy/internal/model"

// Gears of a protection: how many activities a cycle has.
const (
	GearStages = "stages" // snapshot, replicate, verify, settle; looks between cycles
	GearMerged = "merged" // capture and send in one, verify, settle with a look
)

// NotRegistered is the type of the error when an agent is of a release that does not know an activity.
const NotRegistered = "ActivityNotRegisteredError"

// CaptureAndSendIn is stage 1 and stage 2 of a point in one activity on the primary, for small captures that follow each other
// closely. What is captured is not sent when it turns out to be large: that is for replicate, which goes on where it was
// interrupted.
type CaptureAndSendIn struct {
	Capture SnapshotIn `json:"capture"`
	// Send has what replicate needs; its point is that of the capture.
	Send ReplicateIn `json:"send"`
	// Below is the size from which a capture is large, in bytes to look at.
	Below int64 `json:"below"`
}

// CaptureAndSendOut is what both made.
type CaptureAndSendOut struct {
	Capture SnapshotOut `json:"capture"`
	// Sent is nil when the capture is large: it is open, and nothing was sent.
	Sent *ReplicateOut `json:"sent,omitempty"`
}

// SettleIn names the point that was committed.
type SettleIn struct {
	PointIn
	// Look asks for an observation with the answer, so that no look is needed for it.
	Look bool `json:"look,omitempty"`
}

// SettleOut says what settling the primary left.
type SettleOut struct {
	Leftovers []string           `json:"leftovers"`
	Observed  *model.Observation `json:"observed,omitempty"` // as of after it; nil when it was not asked for, or not to be had
}

// CaptureAndSend is on the bulk queue. A failure carries, after its Detail, the SnapshotOut of what was captured before it, and so
// does the newest heartbeat after its ReplicateProgress. It is tried less often than replicate: so little is soon captured anew.
var CaptureAndSend = Activity[CaptureAndSendIn, CaptureAndSendOut]{"capture-and-send", captureAndSendOptions()}
