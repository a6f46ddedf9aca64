package agent

import "understudy/internal/model"

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
