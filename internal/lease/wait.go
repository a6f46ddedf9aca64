package lease

import (
	"context"
	"fmt"
	"time"

	"understudy/internal/model"
)

// Seal makes this host the candidate of a takeover: from here it grants nobody, durably [C1, C4], and the wait for the old
// holder's lease begins. A copy that this host itself held is bound to stop at once; it is not killed, because the takeover
// may be rolled back.
func (h *Holder) Seal(ctx context.Context, vm model.VMRef, g model.Generation, attempt string) (Entry, error) {
	l := h.lane(vm.UUID)
	l.op.Lock()
	defer l.op.Unlock()
	var before Entry
	if _, err := h.o.State.change(vm, func(e *Entry) error {
		before = *e
		if err := h.o.State.raise(e, vm, g, attempt); err != nil {
			return err
		}
		if e.Hold != g {
			e.Candidate = g
		}
		return nil
	}); err != nil {
		return before, err
	}
	if before.Holds() && before.Hold < g && h.o.Terms().GuardLevel > 0 {
		if err := h.stop(ctx, l, before); err != nil {
			return before, err
		}
	}
	h.sealedAt(vm.UUID, g, attempt)
	return before, nil
}

// sealedAt is when this process sealed the VM for this attempt; when it has not yet, that is now.
func (h *Holder) sealedAt(uuid string, g model.Generation, attempt string) model.BootTime {
	h.mu.Lock()
	defer h.mu.Unlock()
	s, ok := h.seals[uuid]
	if !ok || s.generation != g || s.attempt != attempt {
		s = seal{g, attempt, h.o.Clock.Now()}
		h.seals[uuid] = s
	}
	return s.at
}

// AwaitLease returns when wait has passed on this host's own CLOCK_BOOTTIME since its seal of this attempt; when this
// process has not sealed it, since now [C5]. Then every lease that was granted before both seals has run out.
func (h *Holder) AwaitLease(ctx context.Context, vm model.VMRef, g model.Generation, attempt string, wait time.Duration) (string, error) {
	if wait <= 0 {
		return "", h.fail(model.FenceUnconfirmed, vm, nil, "no wait proves anything about a holder without a guard")
	}
	sealed := h.sealedAt(vm.UUID, g, attempt)
	check := func() error {
		e, err := h.o.State.Get(vm.UUID)
		if err == nil && (e.Generation != g || e.Attempt != attempt) {
			err = h.o.State.stale(vm, g, e)
		}
		return err
	}
	if err := check(); err != nil {
		return "", err
	}
	until := sealed.Add(wait)
	for h.o.Clock.Now() < until {
		if err := h.o.Clock.Wait(ctx, until); err != nil {
			return "", err
		}
	}
	if err := check(); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s waited %s on CLOCK_BOOTTIME after its seal of generation %d", h.o.Host, h.o.Clock.Now().Sub(sealed).Round(time.Millisecond), g), nil
}
