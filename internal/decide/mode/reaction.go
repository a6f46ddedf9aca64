package mode

import "understudy/internal/model"

// Reaction is what a protection does after a cycle failed.
type Reaction string

// Reactions.
const (
	Retry    Reaction = "retry"     // as it is, after the back-off
	Resync   Reaction = "resync"    // do not trust the bitmaps in the next cycle
	Reseed   Reaction = "reseed"    // nothing to build on: a new chain
	Prune    Reaction = "prune"     // make room on the standby, then again at once
	NoFreeze Reaction = "no-freeze" // the next capture is crash-consistent, and says so
	Suspend  Reaction = "suspend"   // until the VM runs again
	Ask      Reaction = "ask"       // retried, but only a person can repair it
	Stop     Reaction = "stop"      // at once, a person is needed
)

// React maps each kind of failure.
func React(k model.Kind) Reaction {
	switch k {
	case model.CheckpointLost, model.VerifyMismatch:
		return Resync
	case model.StagingLost:
		return Retry // the next cycle sends again; its delta still starts at the committed point
	case model.ChainBroken:
		return Reseed
	case model.TargetFull:
		return Prune
	case model.QuiesceFailed:
		return NoFreeze
	case model.NotRunning:
		return Suspend
	case model.StaleGeneration:
		return Stop
	case model.ForeignCheckpoint, model.Unsupported, model.Refused, model.NotFound, model.InvalidArgument,
		model.Conflict, model.FenceUnconfirmed:
		return Ask
	case model.JobConflict, model.LinkDown, model.Unreachable, model.Internal:
		return Retry
	}
	return Retry
}
