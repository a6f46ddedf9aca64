package activities

import (
	"sync"

	"understudy/internal/model"
)

// gone are the VMs whose protection was removed here. What was ordered for them before that may still be under way, and would
// leave what nobody removes: the floor that refuses old orders went with the protection. Orders that an agent of before a
// restart took are not heard of again, so this is of the process.
type gone struct {
	mu    sync.Mutex
	uuids map[string]bool
}

// add is called before anything is removed.
func (g *gone) add(uuid string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.uuids == nil {
		g.uuids = map[string]bool{}
	}
	g.uuids[uuid] = true
}

// back: a new protection of the VM begins.
func (g *gone) back(uuid string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.uuids, uuid)
}

func (g *gone) refuse(vm model.VMRef) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.uuids[vm.UUID] {
		return nil
	}
	return model.Fail(model.StaleGeneration, nil, "the protection of the VM was removed, and this order is older").WithVM(vm.Name)
}
