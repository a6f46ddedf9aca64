package activities

import (
	"context"
	"sync"

	"understudy/internal/model"
)

// turns lets one step at a time start or stop a VM. A start that hangs inside libvirt has to end before a surrender may say
// that nothing runs here: what the start read before it hung is over by then.
type turns struct {
	mu    sync.Mutex
	taken map[string]chan struct{} // by UUID; closed when the turn ends
}

func (t *turns) take(ctx context.Context, vm model.VMRef) (leave func(), err error) {
	for {
		t.mu.Lock()
		before, busy := t.taken[vm.UUID]
		if !busy {
			if t.taken == nil {
				t.taken = map[string]chan struct{}{}
			}
			mine := make(chan struct{})
			t.taken[vm.UUID] = mine
			t.mu.Unlock()
			return func() {
				t.mu.Lock()
				delete(t.taken, vm.UUID)
				t.mu.Unlock()
				close(mine)
			}, nil
		}
		t.mu.Unlock()
		select {
		case <-before:
		case <-ctx.Done():
			return nil, model.Fail(model.Unreachable, ctx.Err(), "another step that starts or stops the VM has not ended").WithVM(vm.Name)
		}
	}
}
