package mode

import "understudy/internal/model"

// Deed is what a protection does about an event of its VM.
type Deed string

// Deeds.
const (
	DeedNone    Deed = "none"
	DeedBack    Deed = "back"    // it runs: what was concluded from its being down is void
	DeedOff     Deed = "off"     // off on purpose: nothing is done, and nothing is captured
	DeedPaused  Deed = "paused"  // a person is told
	DeedStorage Deed = "storage" // a person is told that the host's storage fails
	DeedNote    Deed = "note"    // told, and gone with the next sign of life
	DeedRecover Deed = "recover" // in place where the policy says so, else elsewhere
)

// OnEvent maps each event. A disk that is full is full on purpose of nobody and is made room on by a person: a failover would
// lose writes for nothing. Storage that fails a guest so that it is paused is as good as a crash. A guest that libvirt
// restarts by itself, or that its watchdog resets, needs nobody.
func OnEvent(e model.Event) Deed {
	switch e.Kind {
	case model.EventCrashed, model.EventVanished:
		return DeedRecover
	case model.EventPanicked:
		if e.Action == model.ActionRestart {
			return DeedNote
		}
		return DeedRecover
	case model.EventIOError:
		// An unknown cause ("unknown") is not acted on; libvirt gives no word to all causes but a full disk.
		if e.Action == model.ActionPause && e.Reason == "" {
			return DeedRecover
		}
		return DeedStorage
	case model.EventWatchdog:
		if e.Action == model.ActionPause {
			return DeedPaused
		}
		return DeedNote // a stop that follows is told as a crash
	case model.EventPaused:
		return DeedPaused
	case model.EventStarted, model.EventResumed:
		return DeedBack
	case model.EventStopped:
		return DeedOff
	}
	return DeedNone
}

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
