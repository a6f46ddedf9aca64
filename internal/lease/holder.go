package lease

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"

	"understudy/internal/model"
)

// HolderOptions are the parts of a Holder.
type HolderOptions struct {
	Host    model.HostID
	State   *State
	Clock   Clock
	Guard   Guard
	Renewer Renewer
	// Terms that this host would hold a lease by now; the guard's level is among them.
	Terms    func() model.LeaseTerms
	Instance string // of this process
	Log      *slog.Logger
}

// Holder renews the leases of the VMs that this host holds, tells the guard their deadlines, and waits out those of others.
// Its State says what it holds; a Holder that is restarted goes on from there, with no deadline in hand.
type Holder struct {
	o     HolderOptions
	mu    sync.Mutex // of what follows
	lanes map[string]*lane
	seals map[string]seal
	nonce uint64
	busy  map[string]bool // grantors whose last renewal is still under way
	calls sync.WaitGroup
}

// lane is the volatile side of one VM. Its fields are under the Holder's lock; op serializes the steps of one VM and is
// taken first.
type lane struct {
	op       sync.Mutex
	asked    map[uint64]question
	deadline model.BootTime // of the generation below; 0 none
	of       model.Generation
	grants   map[string]model.BootTime // by grantor: when the newest granted request was sent
	refused  map[string]Answer         // by grantor: its last word, when that was no
	sent     model.BootTime            // last deadline that the guard acknowledged
}

type question struct {
	grantor    string
	generation model.Generation
	sent       model.BootTime
}

// seal is the start of a wait. It is volatile on purpose: a restart starts the wait again [C5].
type seal struct {
	generation model.Generation
	attempt    string
	at         model.BootTime
}

// NewHolder makes one; Run starts it. Its nonces begin anywhere, so that an answer to an earlier process means nothing here.
func NewHolder(o HolderOptions) *Holder {
	return &Holder{o: o, lanes: map[string]*lane{}, seals: map[string]seal{}, busy: map[string]bool{}, nonce: rand.Uint64()}
}

func (h *Holder) lane(uuid string) *lane {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.lanes[uuid]
	if l == nil {
		l = &lane{asked: map[uint64]question{}, grants: map[string]model.BootTime{}, refused: map[string]Answer{}}
		h.lanes[uuid] = l
	}
	return l
}

// begin clears the lane for another generation: nothing of an older one counts.
func (h *Holder) begin(l *lane, g model.Generation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l.of != g {
		l.of, l.deadline, l.sent = g, 0, 0
		clear(l.asked)
		clear(l.grants)
		clear(l.refused)
	}
}

// Hold is what a host is told to hold.
type Hold struct {
	VM         model.VMRef
	Generation model.Generation
	Mode       model.LeaseMode // always from the message [C23]
	Grantors   []model.Grantor
	Action     model.Isolation
}

func (k Hold) action() model.Isolation {
	if k.Action == "" {
		return model.IsolationFreeze
	}
	return k.Action
}

// Adopt takes a running VM over when its protection begins: mode sole, which frees a running copy from deadlines.
func (h *Holder) Adopt(ctx context.Context, k Hold) error {
	l := h.lane(k.VM.UUID)
	l.op.Lock()
	defer l.op.Unlock()
	k.Mode = model.ModeSole
	h.begin(l, k.Generation)
	return h.hold(ctx, l, k)
}

// Take is the start's grant: the control plane grants this generation to this host, only then it is held durably, and only
// then the guard opens the gate. The caller starts at once, after MayRun. Repeating it renews. The message overrides a
// candidacy for an older generation [L1].
func (h *Holder) Take(ctx context.Context, k Hold) error {
	l := h.lane(k.VM.UUID)
	l.op.Lock()
	defer l.op.Unlock()
	cur, err := h.o.State.Get(k.VM.UUID)
	if err != nil {
		return err
	}
	if k.Generation < cur.Generation {
		return h.o.State.stale(k.VM, k.Generation, cur)
	}
	terms := h.o.Terms()
	if k.Mode != model.ModeSole && terms.GuardLevel < 1 {
		return h.fail(model.Refused, k.VM, nil, "mode %s needs a guard, and none answers here", k.Mode).WithTry("systemctl start understudy-guard")
	}
	h.begin(l, k.Generation)
	if err := h.ask(ctx, l, k); err != nil {
		return err
	}
	return h.hold(ctx, l, k)
}

// SetMode changes the mode of a generation that is held: the commit of a takeover (sole), or the change to leased, which
// needs the guard and a live grant in hand and is durable before it returns [C14].
func (h *Holder) SetMode(ctx context.Context, k Hold) error {
	l := h.lane(k.VM.UUID)
	l.op.Lock()
	defer l.op.Unlock()
	cur, err := h.o.State.Get(k.VM.UUID)
	switch {
	case err != nil:
		return err
	case cur.Hold != k.Generation || !cur.Holds():
		return h.fail(model.StaleGeneration, k.VM, nil, "generation %d is not held here (floor %d, held %d)", k.Generation, cur.Generation, cur.Hold)
	case k.Mode.Rank() < cur.Mode.Rank():
		return h.fail(model.Conflict, k.VM, nil, "the mode of a generation goes from probation to sole to leased, not from %s to %q", cur.Mode, k.Mode)
	}
	h.begin(l, k.Generation)
	if k.Mode == model.ModeLeased {
		if h.o.Terms().GuardLevel < 1 {
			return h.fail(model.Refused, k.VM, nil, "a lease needs a guard, and none answers here").WithTry("systemctl start understudy-guard")
		}
		if err := h.ask(ctx, l, k); err != nil {
			return err
		}
	}
	return h.hold(ctx, l, k)
}

// hold makes it durable, and only then tells the guard.
func (h *Holder) hold(ctx context.Context, l *lane, k Hold) error {
	e, err := h.write(k)
	if err != nil {
		return err
	}
	return h.arm(ctx, l, e)
}

// write makes the hold durable.
func (h *Holder) write(k Hold) (Entry, error) {
	return h.o.State.change(k.VM, func(e *Entry) error {
		if k.Generation < e.Generation {
			return h.o.State.stale(k.VM, k.Generation, *e)
		}
		if e.Holds() && e.Hold == k.Generation && k.Mode.Rank() < e.Mode.Rank() {
			k.Mode = e.Mode // a repeated, late message never makes it laxer [C16]
		}
		if k.Generation > e.Generation {
			e.Attempt = ""
		}
		terms := h.o.Terms()
		if e.Hold == k.Generation && e.Mode == k.Mode && e.Terms.TTL > 0 {
			terms.TTL, terms.Renew = e.Terms.TTL, e.Terms.Renew // what the wait was computed from
		}
		e.VM, e.Generation, e.Hold, e.Mode = k.VM, k.Generation, k.Generation, k.Mode
		if len(k.Grantors) > 0 {
			e.Grantors = k.Grantors
		}
		e.Action, e.Terms, e.Candidate, e.Surrendered = k.action(), terms, 0, false
		return nil
	})
}

// MayRun is read again right before a start, after everything that could have taken long: the generation is still the
// floor, and the grant still lives.
func (h *Holder) MayRun(uuid string, g model.Generation) error {
	e, err := h.o.State.Get(uuid)
	if err != nil {
		return err
	}
	if !e.Holds() || e.Hold != g {
		return h.fail(model.StaleGeneration, e.VM, nil, "generation %d may not run here (floor %d, held %d)", g, e.Generation, e.Hold)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.lanes[uuid]; l == nil || l.of != g || l.deadline <= h.o.Clock.Now() {
		return h.fail(model.StaleGeneration, e.VM, nil, "the grant of generation %d has run out", g)
	}
	return nil
}

// Surrender gives the VM up: the floor is raised and the hold dropped, durably, before anything is stopped.
func (h *Holder) Surrender(vm model.VMRef, g model.Generation, attempt string) error {
	l := h.lane(vm.UUID)
	l.op.Lock()
	defer l.op.Unlock()
	if _, err := h.o.State.change(vm, func(e *Entry) error {
		if err := h.o.State.raise(e, vm, g, attempt); err != nil {
			return err
		}
		e.Hold, e.Mode, e.Grantors, e.Surrendered = 0, "", nil, true
		return nil
	}); err != nil {
		return err
	}
	h.begin(l, g)
	return nil
}

// Stop kills every copy that was given up and proves it gone, also one that is frozen or that libvirt does not know.
func (h *Holder) Stop(ctx context.Context, uuid string) error {
	e, err := h.o.State.Get(uuid)
	if err != nil || e.Holds() || e.Generation == 0 || h.o.Terms().GuardLevel < 1 {
		return err
	}
	return h.o.Guard.Stop(ctx, uuid, e.Generation)
}

// Drop ends everything about a VM that is no longer protected.
func (h *Holder) Drop(ctx context.Context, vm model.VMRef) error {
	l := h.lane(vm.UUID)
	l.op.Lock()
	defer l.op.Unlock()
	if h.o.Terms().GuardLevel > 0 {
		if err := h.o.Guard.Forget(ctx, vm.UUID); err != nil {
			return err
		}
	}
	h.mu.Lock()
	delete(h.lanes, vm.UUID)
	delete(h.seals, vm.UUID)
	h.mu.Unlock()
	return h.o.State.Forget(vm.UUID)
}

// Held is one VM of this host, for people.
type Held struct {
	Entry
	Left int64 `json:"left_ns"` // until the deadline; negative when it has passed, 0 without one
}

// View lists what is held here.
func (h *Holder) View() ([]Held, error) {
	all, err := h.o.State.All()
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []Held
	for _, e := range all {
		if !e.Holds() {
			continue
		}
		v := Held{Entry: e}
		if l := h.lanes[e.VM.UUID]; l != nil && l.of == e.Hold && l.deadline > 0 {
			v.Left = int64(l.deadline.Sub(h.o.Clock.Now()))
		}
		out = append(out, v)
	}
	return out, nil
}

// arm tells the guard what binds the VM now. The deadline in hand may be none (mode sole adopts without a grant): the gate
// stays closed then and a running copy is left alone.
func (h *Holder) arm(ctx context.Context, l *lane, e Entry) error {
	if h.o.Terms().GuardLevel < 1 {
		return nil
	}
	h.mu.Lock()
	deadline := l.deadline
	h.mu.Unlock()
	if deadline == 0 {
		deadline = h.o.Clock.Now()
	}
	return h.tell(ctx, l, e, e.Mode, deadline)
}

func (h *Holder) tell(ctx context.Context, l *lane, e Entry, mode model.LeaseMode, deadline model.BootTime) error {
	action := e.Action
	if action == "" || action == model.IsolationKeep {
		action = model.IsolationFreeze
	}
	err := h.o.Guard.Arm(ctx, model.GuardArm{
		UUID: e.VM.UUID, Generation: e.Hold, BootID: h.o.Clock.BootID(), Deadline: deadline, Mode: mode, Action: action,
	})
	if err != nil {
		return h.fail(model.Internal, e.VM, err, "the guard did not take the deadline of generation %d", e.Hold).WithTry("systemctl status understudy-guard")
	}
	h.mu.Lock()
	l.sent = deadline
	h.mu.Unlock()
	return nil
}

// stop does not wait for the deadline, whatever the mode is; only a grant that is asked for after it thaws the VM.
func (h *Holder) stop(ctx context.Context, l *lane, e Entry) error {
	h.mu.Lock()
	l.deadline, l.sent = 0, 0
	clear(l.grants)
	h.mu.Unlock()
	return h.o.Guard.Freeze(ctx, e.VM.UUID, e.Hold)
}

func (h *Holder) fail(kind model.Kind, vm model.VMRef, err error, format string, args ...any) *model.Failure {
	return model.Fail(kind, err, format, args...).WithVM(vm.Name).WithHost(h.o.Host)
}

// Terms that this host would hold a lease by now.
func (h *Holder) Terms() model.LeaseTerms { return h.o.Terms() }

// Ungate lets a VM start without a grant: where the control plane grants none, its permit is all there is.
func (h *Holder) Ungate(ctx context.Context, vm model.VMRef) error {
	if h.o.Terms().GuardLevel < 1 {
		return nil
	}
	return h.o.Guard.Forget(ctx, vm.UUID)
}

// Told does what the message says: the adoption of a running VM, the commit of a takeover, or the change to leased.
func (h *Holder) Told(ctx context.Context, k Hold) (model.LeaseTerms, error) {
	e, err := h.o.State.Get(k.VM.UUID)
	if err != nil {
		return model.LeaseTerms{}, err
	}
	if e.Hold != k.Generation || !e.Holds() {
		adopted := k
		if err := h.Adopt(ctx, adopted); err != nil {
			return model.LeaseTerms{}, err
		}
	}
	if k.Mode != model.ModeSole || e.Holds() && e.Hold == k.Generation {
		if err := h.SetMode(ctx, k); err != nil {
			return model.LeaseTerms{}, err
		}
	}
	e, err = h.o.State.Get(k.VM.UUID)
	return e.Terms, err
}
