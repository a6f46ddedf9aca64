package lease

import (
	"context"

	"understudy/internal/model"
)

// Release lets go of a generation whose start was taken back, so that the gate is closed and nothing is renewed for a VM that
// does not run. The generation stays permitted to this host: Take holds it again.
func (h *Holder) Release(ctx context.Context, vm model.VMRef, g model.Generation) error {
	l := h.lane(vm.UUID)
	l.op.Lock()
	defer l.op.Unlock()
	held := false
	if _, err := h.o.State.change(vm, func(e *Entry) error {
		if held = e.Hold == g && e.Holds(); held {
			e.Hold, e.Mode, e.Grantors, e.Candidate = 0, "", nil, g
		}
		return nil
	}); err != nil || !held || h.o.Terms().GuardLevel < 1 {
		return err
	}
	h.mu.Lock()
	l.deadline, l.sent = 0, 0
	clear(l.grants)
	h.mu.Unlock()
	if err := h.o.Guard.Freeze(ctx, vm.UUID, g); err != nil && model.KindOf(err) != model.StaleGeneration { // it was never armed
		return err
	}
	return nil
}
