package workflows

import (
	"time"

	"go.temporal.io/sdk/workflow"
)

// A change is a place where a workflow's commands became others than those of histories that exist. Every change is named
// here and nowhere else, and asked for through since.
//
// When to add one: a command (activity, timer, child, signal to another workflow, marker, search attribute) is added, removed,
// moved or renamed on a path that a history in testdata/replay or a run of a release may have taken. Other inputs, options and
// lengths need none. The name is kebab-case with the day it was added; it is never used for a second change.
//
// Where to ask: as near as possible to the commands that changed, and only when they are about to be given, so that a run which
// never comes there has no marker. The answer is fixed for the run from the first time it is asked for.
//
// When to remove one: when no run can be older than it, which is one continue-as-new interval (runCycles cycles; idle protections
// need longest: runEvents events of looks) after every control plane has the release that brought it, and the end of every
// failover begun before. Then the old branch, the name and the histories that need it go in one commit.
type change string

const (
	// merged-gear-20261125: a cycle may capture and send in one activity, and settle brings the look. Older runs stay in stages
	// until they continue as new.
	mergedGear change = "merged-gear-20261125"
	// cancelled-timers-20261125: the timers of the rest and of the watch of the exposure are cancelled when what they wait for came
	// first. Older runs let them fire, which is five events for nothing each time.
	cancelledTimers change = "cancelled-timers-20261125"
	// listed-in-memo: a protection keeps in its memo what a list shows of it.
	listedInMemo change = "listed-in-memo"
	// attach-missing-20261125: a protection attaches again to a watch of a host that was not there. Older runs do not.
	attachMissing change = "attach-missing-20261125"
	// overlap-steps-20261125: a failover does beside its steps what need not wait. Older ones do one step after the other.
	overlapSteps change = "overlap-steps-20261125"
	// tell-held-20261125: a failover that is held tells its protection. Older ones do not.
	tellHeld change = "tell-held-20261125"
)

// since says that this run was begun, or came here first, with the change.
func since(ctx workflow.Context, c change) bool {
	return workflow.GetVersion(ctx, string(c), workflow.DefaultVersion, 1) >= 1
}

// awaitFor waits until a condition is met, or for d; true when it was met. Unlike workflow.AwaitWithOptions it leaves no timer
// behind that fires later for nobody.
func awaitFor(ctx workflow.Context, d time.Duration, summary string, met func() bool) (bool, error) {
	options := workflow.TimerOptions{Summary: summary}
	if !since(ctx, cancelledTimers) {
		return workflow.AwaitWithOptions(ctx, workflow.AwaitOptions{Timeout: d, TimerOptions: options}, met)
	}
	if met() {
		return true, nil
	}
	timed, cancel := workflow.WithCancel(ctx)
	defer cancel()
	timer := workflow.NewTimerWithOptions(timed, d, options)
	if err := workflow.Await(ctx, func() bool { return met() || timer.IsReady() }); err != nil {
		return false, err
	}
	return met(), nil
}
