package lease

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/lease/leasetest"
	"understudy/internal/model"
)

type tester interface {
	require.TestingT
	Helper()
	Cleanup(func())
}

const control = "c"

// world is two hosts and a control plane under one real time that none of them can read. The grantors, holders and files are
// the real ones; guards, QEMUs, network and clocks are models. It notes how many copies ever ran at once.
type world struct {
	t       tester
	ctx     context.Context
	dir     string
	terms   model.LeaseTerms
	step    time.Duration
	now     time.Duration
	records *Records
	stale   *Records // a grantor that reads a copy [C17]; nil when there is none
	cDown   bool
	hosts   map[model.HostID]*host
	order   []model.HostID
	netMu   sync.Mutex
	cut     map[string]bool // "from>to"
	worst   int
}

type qemu struct {
	started model.BootTime
	frozen  bool
}

type host struct {
	w         *world
	id        model.HostID
	dir       string
	rate      float64
	clock     *leasetest.Clock
	guard     *guardModel
	state     *State
	holder    *Holder // nil: the agent is dead
	hung      bool
	off       bool
	asleep    bool
	monotonic bool // its clock stands still in sleep [C8]
	sleepless bool // nobody freezes before sleep [C9]
	ungated   bool // no start gate [C7]
	boots     int
	next      model.BootTime
	qemu      *qemu
}

func tempDir(t tester) string {
	parent := ""
	if _, err := os.Stat("/dev/shm"); err == nil {
		parent = "/dev/shm" // fsync costs nothing there, and nothing here tests the disk
	}
	dir, err := os.MkdirTemp(parent, "lease")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func newWorld(t tester, terms model.LeaseTerms, step time.Duration, hosts ...model.HostID) *world {
	t.Helper()
	w := &world{t: t, ctx: context.Background(), dir: tempDir(t), terms: terms, step: step, hosts: map[model.HostID]*host{}, order: hosts, cut: map[string]bool{}}
	w.openRecords()
	for _, id := range hosts {
		h := &host{w: w, id: id, rate: 1, dir: filepath.Join(w.dir, string(id)), clock: leasetest.NewClock(string(id) + "-boot-0")}
		h.guard = &guardModel{h: h, alive: terms.GuardLevel > 0, level: terms.GuardLevel}
		w.hosts[id] = h
		h.startAgent()
	}
	return w
}

// leased is where most stories begin: generation 1 on host-a, bound to host-b and the control plane.
func leasedAt(t tester, terms model.LeaseTerms, step time.Duration) *world {
	w := newWorld(t, terms, step, "host-a", "host-b")
	w.begin()
	require.NoError(t, w.bind("host-a", 1, "host-b"))
	w.run(2 * terms.Renew)
	require.Equal(t, 1, w.running())
	return w
}

func leased(t tester) *world { return leasedAt(t, model.DefaultTerms(2), 500*time.Millisecond) }

// sole is a VM that runs without a deadline.
func sole(t tester) *world {
	w := newWorld(t, model.DefaultTerms(2), 500*time.Millisecond, "host-a", "host-b")
	w.begin()
	return w
}

func (w *world) begin() {
	_, err := w.records.Begin(w.ctx, vm, 1, "host-a")
	require.NoError(w.t, err)
	a := w.hosts["host-a"]
	a.qemu = &qemu{started: a.clock.Now()}
	_, err = a.holder.Told(w.ctx, w.hold("host-a", 1, model.ModeSole))
	require.NoError(w.t, err)
}

func (w *world) openRecords() {
	r, err := OpenRecords(filepath.Join(w.dir, control), fixedNow)
	require.NoError(w.t, err)
	w.records = r
}

func (w *world) grantors(peers ...model.HostID) []model.Grantor {
	var list []model.Grantor
	for _, p := range peers {
		list = append(list, model.Grantor{Host: p, Address: string(p), ID: w.hosts[p].state.ID()})
	}
	return append(list, model.Grantor{Address: control, ID: w.records.ID()})
}

func (w *world) hold(_ model.HostID, g model.Generation, mode model.LeaseMode, peers ...model.HostID) Hold {
	return Hold{VM: vm, Generation: g, Mode: mode, Grantors: w.grantors(peers...)}
}

// bind makes a sole generation leased: the peer knows it, the holder has it durably, then the record counts on it [C14].
func (w *world) bind(on model.HostID, g model.Generation, peers ...model.HostID) error {
	for _, p := range peers {
		if err := w.hosts[p].state.Admit(vm, g); err != nil {
			return err
		}
	}
	terms, err := w.hosts[on].holder.Told(w.ctx, w.hold(on, g, model.ModeLeased, peers...))
	if err != nil {
		return err
	}
	_, err = w.records.SetMode(w.ctx, vm.UUID, g, on, model.ModeLeased, terms)
	return err
}

// Renew is the network. An agent is in no two places, so the hosts' links are named by their ends.
func (h *host) Renew(_ context.Context, to model.Grantor, in RenewIn) (RenewOut, error) {
	w := h.w
	w.netMu.Lock()
	defer w.netMu.Unlock()
	if w.cut[string(h.id)+">"+to.Address] || w.cut[to.Address+">"+string(h.id)] {
		return RenewOut{}, errAway
	}
	return w.answer(to.Address, in)
}

func (w *world) answer(address string, in RenewIn) (RenewOut, error) {
	if address == control {
		if w.cDown {
			return RenewOut{}, errAway
		}
		if w.stale != nil {
			return w.stale.Grant(in), nil
		}
		return w.records.Grant(in), nil
	}
	peer := w.hosts[model.HostID(address)]
	if !peer.answers() {
		return RenewOut{}, errAway
	}
	return peer.state.Grant(in), nil
}

func (h *host) answers() bool { return !h.off && !h.asleep && !h.hung && h.holder != nil }

func (w *world) part(a, b string) { w.cut[a+">"+b], w.cut[b+">"+a] = true, true }
func (w *world) heal()            { clear(w.cut) }
func (w *world) isolate(id model.HostID) {
	w.part(string(id), control)
	for _, other := range w.order {
		w.part(string(id), string(other))
	}
}

func (h *host) startAgent() {
	state, err := OpenState(h.dir, h.id)
	require.NoError(h.w.t, err)
	h.state, h.hung, h.next = state, false, 0
	h.holder = NewHolder(HolderOptions{
		Host: h.id, State: state, Clock: h.clock, Guard: h.guard, Renewer: h, Log: slog.New(slog.DiscardHandler),
		Terms: func() model.LeaseTerms {
			terms := h.w.terms
			terms.GuardLevel = 0
			if h.guard.alive {
				terms.GuardLevel = h.guard.level
			}
			return terms
		},
	})
}

func (h *host) powerOff() {
	h.off, h.asleep, h.holder, h.qemu = true, false, nil, nil
	h.guard.rec, h.guard.cut, h.guard.floor, h.guard.alive = model.GuardArm{}, false, 0, false
}

// boot starts guard and agent; no VM starts by itself.
func (h *host) boot() {
	h.boots++
	h.off = false
	h.clock.Boot(fmt.Sprintf("%s-boot-%d", h.id, h.boots), model.BootTime(time.Minute))
	h.guard.alive, h.guard.dead = true, 0
	h.startAgent()
}

func (h *host) sleep() {
	if h.qemu != nil && !h.sleepless {
		h.qemu.frozen = true
	}
	h.asleep = true
}

// wake lets vCPUs run before any process of the host is scheduled: that is the order of a real resume.
func (h *host) wake() {
	h.asleep = false
	h.w.look()
	h.guard.apply()
	h.w.look()
}

// start is any start of QEMU, whoever asks for it.
func (h *host) start() bool {
	if h.off || h.asleep || h.qemu != nil || !h.ungated && !h.guard.open() {
		return false
	}
	h.qemu = &qemu{started: h.clock.Now()}
	if h.ungated {
		h.w.look() // it runs until the guard's next scan
	}
	h.guard.apply()
	h.w.look()
	return true
}

// takeAndStart is the agent's start step, as the activity does it.
func (h *host) takeAndStart(k Hold) error {
	if err := h.holder.Take(h.w.ctx, k); err != nil {
		return err
	}
	if err := h.holder.MayRun(k.VM.UUID, k.Generation); err != nil {
		return err
	}
	if h.qemu == nil && !h.start() {
		return errAway
	}
	h.w.look()
	return nil
}

// waited polls: an ended context makes the wait answer at once.
func (h *host) waited(g model.Generation, attempt string, wait time.Duration) bool {
	ended, cancel := context.WithCancel(h.w.ctx)
	cancel()
	_, err := h.holder.AwaitLease(ended, vm, g, attempt, wait)
	return err == nil
}

// surrender is AskOff: durable first, then proved off.
func (h *host) surrender(g model.Generation, attempt string) (*model.Evidence, error) {
	if err := h.holder.Surrender(vm, g, attempt); err != nil {
		return nil, err
	}
	if err := h.holder.Stop(h.w.ctx, vm.UUID); err != nil {
		return nil, err
	}
	h.qemu = nil
	return &model.Evidence{Kind: model.EvidenceSurrendered, Generation: g}, nil
}

func expired(g model.Generation) *model.Evidence {
	return &model.Evidence{Kind: model.EvidenceLeaseExpired, Generation: g}
}

func attempt(g model.Generation) string { return fmt.Sprintf("try-%d", g) }

func (w *world) claim(g, over model.Generation, target model.HostID) {
	_, err := w.records.Claim(w.ctx, vm.UUID, g, over, target, attempt(g))
	require.NoError(w.t, err)
}

func (w *world) seal(g model.Generation, target model.HostID) {
	_, err := w.hosts[target].holder.Seal(w.ctx, vm, g, attempt(g))
	require.NoError(w.t, err)
}

func (w *world) permit(g model.Generation, target model.HostID, ev *model.Evidence) error {
	_, err := w.records.Permit(w.ctx, vm.UUID, Permission{Generation: g, Host: target, Attempt: attempt(g), Evidence: ev, Mode: model.ModeProbation, Terms: w.terms})
	return err
}

func (w *world) mustPermit(g model.Generation, target model.HostID, ev *model.Evidence) {
	w.t.Helper()
	require.NoError(w.t, w.permit(g, target, ev))
}

func (w *world) mustStart(g model.Generation, target model.HostID) {
	w.t.Helper()
	require.NoError(w.t, w.hosts[target].takeAndStart(w.hold(target, g, model.ModeProbation)))
}

func (w *world) running() int {
	n := 0
	for _, h := range w.hosts {
		if h.qemu != nil && !h.qemu.frozen && !h.asleep && !h.off {
			n++
		}
	}
	return n
}

func (w *world) look() { w.worst = max(w.worst, w.running()) }

// run lets real time pass.
func (w *world) run(d time.Duration) {
	for end := w.now + d; w.now < end; {
		w.tick()
	}
}

func (w *world) tick() {
	w.now += w.step
	for _, id := range w.order {
		h := w.hosts[id]
		if h.off {
			continue
		}
		passed := time.Duration(float64(w.step) * h.rate)
		if !h.asleep || !h.monotonic {
			h.clock.Advance(passed)
		}
		if h.asleep {
			continue
		}
		if h.guard.alive {
			h.guard.apply()
		} else if h.guard.dead += w.step; h.guard.level >= 2 && h.guard.dead >= w.terms.TWd+time.Second {
			h.powerOff()
			h.boot()
		}
	}
	for _, id := range w.order {
		h := w.hosts[id]
		if h.answers() && h.clock.Now() >= h.next {
			h.next = h.clock.Now().Add(w.terms.Renew)
			h.holder.Round(w.ctx)
			h.holder.calls.Wait()
		}
	}
	w.look()
}

// files copies what a host or the control plane has on disk; restore puts it back: state that was not fsynced.
func (w *world) files(name string) func() {
	from := filepath.Join(w.dir, name)
	kept := map[string][]byte{}
	list, err := filepath.Glob(filepath.Join(from, "*"))
	require.NoError(w.t, err)
	for _, f := range list {
		b, err := os.ReadFile(f)
		require.NoError(w.t, err)
		kept[f] = b
	}
	return func() {
		for f, b := range kept {
			require.NoError(w.t, os.WriteFile(f, b, 0o600))
		}
	}
}
