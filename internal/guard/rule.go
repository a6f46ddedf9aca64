package guard

import (
	"time"

	"understudy/internal/model"
)

// order is what has to be true of one copy.
type order int

const (
	mayRun order = iota
	mustFreeze
	mustDie
)

// bound says that somebody else counts on the deadline: the copy must stand then, or the host must fall.
func (r record) bound() bool {
	return r.Generation > 0 && (r.Mode == model.ModeLeased || r.Mode == model.ModeProbation)
}

// ahead says that the deadline has not come; the guard acts early, so that the usual stop ends before it.
func (r record) ahead(at model.BootTime, early time.Duration) bool {
	return !r.Cut && r.Generation > 0 && at < r.Deadline.Add(-early)
}

// closed says why the VM may not be started; empty when it may.
func (r record) closed(at model.BootTime, early time.Duration) string {
	switch {
	case r.Generation == 0:
		return "no lease was armed since this boot"
	case r.Floor > r.Generation:
		return "this host gave it up"
	case r.Cut:
		return "its lease was refused"
	case !r.ahead(at, early):
		return "its lease ran out"
	}
	return ""
}

// wants is the whole law: what has to be true of the copy that was started then. older says that another copy on this host
// was started before it.
func (r record) wants(started model.BootTime, older bool, at model.BootTime, early time.Duration) (order, string) {
	switch {
	case started <= r.Stopped:
		return mustDie, "this host gave it up"
	case r.Generation == 0:
		return mustFreeze, "no lease was armed since this boot"
	case r.Floor > r.Generation:
		return mustFreeze, "this host gave it up"
	case older:
		return mustFreeze, "another copy of it runs here"
	case r.ahead(at, early):
		return mayRun, ""
	case r.Mode == model.ModeSole && !r.Cut && started <= r.Deadline:
		return mayRun, "" // the deadline of a sole copy closes the gate, no more
	case r.Mode == model.ModeSole && !r.Cut:
		return mustFreeze, "it was started past the gate"
	case r.Action == model.IsolationKill:
		return mustDie, "its lease ran out"
	case r.Cut:
		return mustFreeze, "its lease was refused"
	}
	return mustFreeze, "its lease ran out"
}

// farthest bounds a deadline: a lease of the longest TTL, twice. What lies beyond is a fault of the caller.
const farthest = 10 * time.Minute

// arm changes the record by what the agent says, or refuses it.
func (r record) arm(a model.GuardArm, at model.BootTime) (record, error) {
	switch {
	case a.BootID != r.BootID:
		return r, model.Fail(model.StaleGeneration, nil, "the deadline is of another boot").WithVM(a.UUID)
	case a.Generation == 0:
		return r, model.Fail(model.InvalidArgument, nil, "there is no generation 0").WithVM(a.UUID)
	case a.Mode.Rank() == 0:
		return r, model.Fail(model.InvalidArgument, nil, "%.20q is no mode", a.Mode).WithVM(a.UUID)
	case a.Action != model.IsolationFreeze && a.Action != model.IsolationKill:
		return r, model.Fail(model.InvalidArgument, nil, "%.20q is no action of the guard", a.Action).WithVM(a.UUID)
	case a.Deadline <= 0 || a.Deadline > at.Add(farthest):
		return r, model.Fail(model.InvalidArgument, nil, "a deadline %s from now is none", a.Deadline.Sub(at)).WithVM(a.UUID)
	case a.Generation < max(r.Generation, r.Floor):
		return r, model.Fail(model.StaleGeneration, nil, "generation %d is over here: the floor is %d", a.Generation, max(r.Generation, r.Floor)).WithVM(a.UUID)
	case a.Generation == r.Generation && a.Mode.Rank() < r.Mode.Rank():
		return r, model.Fail(model.Conflict, nil, "the mode of generation %d goes from %s no more to %s", a.Generation, r.Mode, a.Mode).WithVM(a.UUID)
	}
	deadline := a.Deadline
	if a.Generation == r.Generation && !r.Cut {
		deadline = max(deadline, r.Deadline) // late or out of order: it only moves forward
	}
	if a.Generation == r.Generation && r.Cut && a.Deadline <= at {
		deadline = r.Deadline
	} else {
		r.Cut = false
	}
	r.Generation, r.Floor, r.Deadline, r.Mode, r.Action = a.Generation, a.Generation, deadline, a.Mode, a.Action
	return r, nil
}
