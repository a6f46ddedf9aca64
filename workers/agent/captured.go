package agent

import (
	"time"

	"understudy/internal/model"
)

// CapturedBytes implements activities.Watcher.
func (w *watcher) CapturedBytes(vm model.VMRef, p model.PointRef) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	e, ok := w.vms[vm.UUID]
	if !ok || e.Blind {
		return 0
	}
	for _, c := range e.Meter.Open {
		if c.Point == p {
			return c.Tally.Bytes
		}
	}
	return 0
}

// answerLimit is how long a look that follows a commit may take.
const answerLimit = 2 * time.Second

// Answering implements activities.Watcher.
func (w *watcher) Answering(vm model.VMRef, p model.PointRef) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e, ok := w.vms[vm.UUID]; ok {
		e.answering, e.answeringAt = p, w.now()
	}
}

// answered says that the answer which tells the first write since the capture is still on its way. What is not settled within
// its target is told all the same.
func (e *entry) answered(now time.Time) bool {
	for _, c := range e.Meter.Open {
		if c.Point == e.answering {
			return now.Sub(e.answeringAt) < e.RPO
		}
	}
	return !e.answering.IsZero() && e.answering == e.Committed && now.Sub(e.answeringAt) < answerLimit
}
