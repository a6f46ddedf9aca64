package lease

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/google/uuid"

	"understudy/internal/durable"
	"understudy/internal/model"
)

// State keeps, on one host, what this host knows and holds of each VM. Whatever comes with a lower generation than the
// floor is refused, also after a restart: the file is fsynced before any reply that depends on it.
type State struct {
	dir  string
	host model.HostID
	id   string
	mu   sync.Mutex
}

// Entry is the file of one VM.
type Entry struct {
	VM model.VMRef `json:"vm"`
	// Generation is the floor: the highest ever seen here.
	Generation model.Generation `json:"generation"`
	// Attempt that raised the floor; another attempt with the same generation is refused.
	Attempt string `json:"attempt"`
	// Hold is the generation that this host may run; it counts only while it is the floor.
	Hold     model.Generation `json:"hold,omitempty"`
	Mode     model.LeaseMode  `json:"mode,omitempty"`
	Grantors []model.Grantor  `json:"grantors,omitempty"`
	Action   model.Isolation  `json:"action,omitempty"`
	// Terms of the hold: the wait of a takeover follows from them, so a later change of flags does not count for it.
	Terms model.LeaseTerms `json:"terms"`
	// Candidate is the generation that this host is being prepared for: while it is the floor, nobody is granted here.
	Candidate model.Generation `json:"candidate,omitempty"`
	// Surrendered says that the hold was given up durably.
	Surrendered bool `json:"surrendered,omitempty"`
}

// Holds says that this host may run the VM under the floor.
func (e Entry) Holds() bool { return e.Hold > 0 && e.Hold == e.Generation }

// counts says that a grantor's word counts: on probation the control plane alone must be able to take the VM back [C22].
func (e Entry) counts(g model.Grantor) bool { return e.Mode != model.ModeProbation || g.Control() }

const idFile = "id"

// OpenState uses dir, which it creates.
func OpenState(dir string, host model.HostID) (*State, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, model.Fail(model.Internal, err, "cannot create the folder of floors").WithHost(host)
	}
	id, err := durableID(dir)
	if err != nil {
		return nil, err
	}
	return &State{dir: dir, host: host, id: id}, nil
}

// durableID is made with the folder: a reinstalled grantor is another one, and in nobody's list.
func durableID(dir string) (string, error) {
	path := filepath.Join(dir, idFile)
	b, err := os.ReadFile(path)
	if err == nil {
		if id := strings.TrimSpace(string(b)); model.ValidUUID(id) {
			return id, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", model.Fail(model.Internal, err, "cannot read the grantor's id")
	}
	id := uuid.NewString()
	if err := durable.WriteFile(path, []byte(id+"\n")); err != nil {
		return "", model.Fail(model.Internal, err, "cannot write the grantor's id")
	}
	return id, nil
}

// ID of this host as a grantor.
func (s *State) ID() string { return s.id }

// Raise makes g the floor. Raising to the same generation by the same attempt is success; a lower generation, or the same
// one by another attempt, is StaleGeneration.
func (s *State) Raise(vm model.VMRef, g model.Generation, attempt string) error {
	_, err := s.change(vm, func(e *Entry) error { return s.raise(e, vm, g, attempt) })
	return err
}

// Admit checks that work under generation g may go on, and raises the floor when g is above it.
func (s *State) Admit(vm model.VMRef, g model.Generation) error { return s.Raise(vm, g, "") }

func (s *State) raise(e *Entry, vm model.VMRef, g model.Generation, attempt string) error {
	if g < e.Generation || g == e.Generation && e.Attempt != attempt && attempt != "" && e.Attempt != "" {
		return s.stale(vm, g, *e)
	}
	if g > e.Generation {
		e.VM, e.Generation, e.Attempt = vm, g, attempt
	}
	return nil
}

// Get returns the entry; generation zero when the VM was never seen.
func (s *State) Get(uuid string) (Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.read(uuid)
}

// All lists the entries. One that cannot be read is an error: guessing could let two copies run.
func (s *State) All() ([]Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	names, err := filepath.Glob(filepath.Join(s.dir, "*.json"))
	if err != nil {
		return nil, err
	}
	var all []Entry
	for _, n := range names {
		id := strings.TrimSuffix(filepath.Base(n), ".json")
		if !model.ValidUUID(id) {
			continue
		}
		e, err := s.read(id)
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, nil
}

// Forget removes what is known of a VM that is no longer protected.
func (s *State) Forget(uuid string) error {
	if !model.ValidUUID(uuid) {
		return model.Fail(model.InvalidArgument, nil, "%q is not a VM UUID", uuid)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return durable.Remove(filepath.Join(s.dir, uuid+".json"))
}

// Grant answers a renewal as the peer's grantor: yes when the generation is exactly the floor and this host is neither the
// holder nor the candidate of it. It changes nothing, so it needs no fsync.
func (s *State) Grant(in RenewIn) RenewOut {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := RenewOut{Grantor: s.id, Answers: make([]Answer, 0, len(in.Asks))}
	for _, a := range in.Asks[:min(len(in.Asks), MaxAsks)] {
		ans := Answer{VM: a.VM, Nonce: a.Nonce}
		switch e, err := s.read(a.VM); {
		case err != nil:
			ans.Why = "this host cannot read what it knows of the VM"
		case a.Generation != e.Generation:
			ans.Floor, ans.Why = e.Generation, "it is not the generation that this host knows"
		case e.Candidate == e.Generation:
			ans.Floor, ans.Why = e.Generation, "this host is being prepared for it"
		case e.Holds():
			ans.Floor, ans.Moved, ans.Why = e.Generation, in.Host != s.host, "this host holds it"
		default:
			ans.Floor, ans.Granted = e.Generation, true
		}
		out.Answers = append(out.Answers, ans)
	}
	return out
}

// change reads, changes and writes one entry under the lock; an unchanged one is not written.
func (s *State) change(vm model.VMRef, do func(*Entry) error) (Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, err := s.read(vm.UUID)
	if err != nil {
		return e, err
	}
	before := e
	if err := do(&e); err != nil {
		return before, err
	}
	if same(before, e) {
		return e, nil
	}
	if err := durable.WriteJSON(filepath.Join(s.dir, vm.UUID+".json"), e); err != nil {
		return before, model.Fail(model.Internal, err, "cannot write the floor").WithVM(vm.Name).WithHost(s.host)
	}
	return e, nil
}

func same(a, b Entry) bool {
	if len(a.Grantors) != len(b.Grantors) {
		return false
	}
	for i := range a.Grantors {
		if a.Grantors[i] != b.Grantors[i] {
			return false
		}
	}
	a.Grantors, b.Grantors = nil, nil
	return a.VM == b.VM && a.Generation == b.Generation && a.Attempt == b.Attempt && a.Hold == b.Hold && a.Mode == b.Mode &&
		a.Action == b.Action && a.Terms == b.Terms && a.Candidate == b.Candidate && a.Surrendered == b.Surrendered
}

func (s *State) read(uuid string) (Entry, error) {
	if !model.ValidUUID(uuid) {
		return Entry{}, model.Fail(model.InvalidArgument, nil, "%q is not a VM UUID", uuid)
	}
	var e Entry
	err := durable.ReadJSON(filepath.Join(s.dir, uuid+".json"), &e)
	if errors.Is(err, fs.ErrNotExist) {
		return Entry{}, nil
	}
	if err != nil {
		// A damaged floor must stop everything: guessing zero could let an old generation run.
		return Entry{}, model.Fail(model.Internal, err, "cannot read the floor").WithVM(uuid).WithHost(s.host)
	}
	return e, nil
}

func (s *State) stale(vm model.VMRef, g model.Generation, cur Entry) error {
	return model.Fail(model.StaleGeneration, nil, "generation %d is refused: this host has seen generation %d (attempt %q)",
		g, cur.Generation, cur.Attempt).WithVM(vm.Name).WithHost(s.host).WithTry("understudy status " + vm.Name)
}
