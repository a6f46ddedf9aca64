package workflows

import (
	"errors"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"
)

const (
	undoAttempts = 5 // on top of the activity's own
	undoPause    = 5 * time.Second
)

// saga is a list of what takes steps back. Rules: an undo is registered before its step, because a step may have been done
// although its answer was lost; undos are idempotent; they run newest first on a disconnected context, because a cancelled
// workflow would run none; one that is stuck is reported beside the first error and never replaces it.
type saga struct {
	undos []undoStep
}

type undoStep struct {
	name     string
	attempts int
	do       func(workflow.Context) error
}

func (s *saga) add(name string, do func(workflow.Context) error) {
	s.addPatient(name, undoAttempts, do)
}

func (s *saga) addPatient(name string, attempts int, do func(workflow.Context) error) {
	s.undos = append(s.undos, undoStep{name, attempts, do})
}

// addLast adds one that runs after all that are there.
func (s *saga) addLast(name string, attempts int, do func(workflow.Context) error) {
	s.undos = append([]undoStep{{name, attempts, do}}, s.undos...)
}

// withdraw forgets the newest undo of that name: its step surely did not happen, or was taken back already.
func (s *saga) withdraw(name string) {
	for i := len(s.undos) - 1; i >= 0; i-- {
		if s.undos[i].name == name {
			s.undos = append(s.undos[:i], s.undos[i+1:]...)
			return
		}
	}
}

// pointOfNoReturn forgets everything: from here only forward.
func (s *saga) pointOfNoReturn() { s.undos = nil }

// unwind runs what is registered and says what was undone and what is stuck.
func (s *saga) unwind(ctx workflow.Context) (undone, stuck []string) {
	free, cancel := workflow.NewDisconnectedContext(ctx)
	defer cancel()
	for i := len(s.undos) - 1; i >= 0; i-- {
		if err := persist(free, s.undos[i].attempts, s.undos[i].do); err != nil {
			stuck = append(stuck, s.undos[i].name+": "+sentence(err))
			continue
		}
		undone = append(undone, s.undos[i].name)
	}
	s.undos = nil
	return undone, stuck
}

// persist repeats an undo: giving up means a person has to do it.
func persist(ctx workflow.Context, attempts int, do func(workflow.Context) error) error {
	var err error
	for attempt := range attempts {
		if attempt > 0 {
			pause := workflow.NewTimerWithOptions(ctx, undoPause<<(attempt-1), workflow.TimerOptions{Summary: "before the undo is tried again"})
			if stop := pause.Get(ctx, nil); stop != nil {
				return stop
			}
		}
		if err = do(ctx); err == nil || final(err) {
			return err
		}
	}
	return err
}

// final says that repeating cannot help.
func final(err error) bool {
	var app *temporal.ApplicationError
	return errors.As(err, &app) && app.NonRetryable()
}
