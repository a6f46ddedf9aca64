package lease

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"understudy/internal/durable"
	"understudy/internal/model"
)

// Floors keeps, on one host, the highest generation seen of each VM. Whatever comes with a lower one is refused, also
// after a restart: the file is fsynced before any reply that depends on it.
type Floors struct {
	dir  string
	host model.HostID
	mu   sync.Mutex
}

// Floor is the content of one file.
type Floor struct {
	VM         model.VMRef      `json:"vm"`
	Generation model.Generation `json:"generation"`
	// Attempt that raised the floor; another attempt with the same generation is refused.
	Attempt string `json:"attempt"`
}

// OpenFloors uses dir, which it creates.
func OpenFloors(dir string, host model.HostID) (*Floors, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, model.Fail(model.Internal, err, "cannot create the folder of floors").WithHost(host)
	}
	return &Floors{dir: dir, host: host}, nil
}

// Raise makes g the floor. Raising to the same generation by the same attempt is success; a lower generation, or the same
// one by another attempt, is StaleGeneration.
func (f *Floors) Raise(vm model.VMRef, g model.Generation, attempt string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	cur, err := f.read(vm.UUID)
	if err != nil {
		return err
	}
	if g < cur.Generation || g == cur.Generation && cur.Attempt != attempt && attempt != "" && cur.Attempt != "" {
		return f.stale(vm, g, cur)
	}
	if g == cur.Generation {
		return nil
	}
	if err := durable.WriteJSON(filepath.Join(f.dir, vm.UUID+".json"), Floor{VM: vm, Generation: g, Attempt: attempt}); err != nil {
		return model.Fail(model.Internal, err, "cannot write the floor").WithVM(vm.Name).WithHost(f.host)
	}
	return nil
}

// Admit checks that work under generation g may go on, and raises the floor when g is above it.
func (f *Floors) Admit(vm model.VMRef, g model.Generation) error { return f.Raise(vm, g, "") }

// Get returns the floor; generation zero when the VM was never seen.
func (f *Floors) Get(uuid string) (Floor, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.read(uuid)
}

// Forget removes the floor of a VM that is no longer protected.
func (f *Floors) Forget(uuid string) error {
	if !model.ValidUUID(uuid) {
		return model.Fail(model.InvalidArgument, nil, "%q is not a VM UUID", uuid)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return durable.Remove(filepath.Join(f.dir, uuid+".json"))
}

func (f *Floors) read(uuid string) (Floor, error) {
	if !model.ValidUUID(uuid) {
		return Floor{}, model.Fail(model.InvalidArgument, nil, "%q is not a VM UUID", uuid)
	}
	var cur Floor
	err := durable.ReadJSON(filepath.Join(f.dir, uuid+".json"), &cur)
	if errors.Is(err, fs.ErrNotExist) {
		return Floor{}, nil
	}
	if err != nil {
		// A damaged floor must stop everything: guessing zero could let an old generation run.
		return Floor{}, model.Fail(model.Internal, err, "cannot read the floor").WithVM(uuid).WithHost(f.host)
	}
	return cur, nil
}

func (f *Floors) stale(vm model.VMRef, g model.Generation, cur Floor) error {
	return model.Fail(model.StaleGeneration, nil, "generation %d is refused: this host has seen generation %d (attempt %q)",
		g, cur.Generation, cur.Attempt).WithVM(vm.Name).WithHost(f.host).WithTry("understudy status " + vm.Name)
}
