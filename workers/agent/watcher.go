package agent

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"

	"understudy/activities"
	"understudy/internal/contract"
	"understudy/internal/hostload"
	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

const (
	minPeriod    = 250 * time.Millisecond
	maxPeriod    = 4 * time.Second
	statsLimit   = 3 * time.Second
	periodPerRPO = 40
	cpuEvery     = 30 * time.Second

	// To tell one VM's counters costs libvirtd and QEMU about half a millisecond, so many VMs are sampled more slowly: half a
	// percent of a core is enough. What is not known exactly counts as older, so a target is never given more than an eighth of
	// itself away.
	unitCost     = 500 * time.Microsecond
	costShare    = 0.005
	leastPerRPO  = 8
	slowestRound = 5 * time.Second
)

// counters is what the watcher asks of the hypervisor.
type counters interface {
	Stats(ctx context.Context, q hypervisor.StatsQuery) ([]hypervisor.Stats, error)
	Domains(ctx context.Context) ([]hypervisor.Domain, error)
	Domain(ctx context.Context, nameOrUUID string) (hypervisor.Domain, error)
}

// teller reaches the workflows.
type teller interface {
	Utilization(ctx context.Context, vmUUID string, in contract.UtilizationIn) error
	Event(ctx context.Context, vmUUID string, in contract.VMEventIn) error
}

// watcher samples the VMs that are served here and tells their protections what matters: the first write after a capture, a
// lasting change of the write rate, and what happens to the domain.
type watcher struct {
	host model.HostID
	hv   counters
	// dirty asks how much was written since a committed point, in whole clusters; negative when that is unknown.
	dirty func(ctx context.Context, vm model.VMRef, committed model.PointRef) (int64, error)
	// memories estimates what guests do to their memory; nil does not.
	memories  memories
	measuring measuring
	// proc is where the kernel tells of processes; empty: it is not asked. local says for which files it can be believed.
	proc   string
	local  func(path string) bool
	stills map[string]*still // with sampling
	asked  *float64          // VMs a round, of late; nil before the first
	// stopped says that QEMU of the VM answers nobody; nil: of none.
	stopped func(uuid string) bool
	to      teller
	out     *outbox
	list    watchlist
	load    *hostload.Meter
	link    *shares // never asked while mu is held: it asks back
	now     func() time.Time
	log     *slog.Logger

	sampling sync.Mutex // one Stats call at a time: an answer taken earlier must not be fed later
	mu       sync.Mutex
	vms      map[string]*entry
	wake     chan struct{} // the period may be shorter now
	bands    bands
	cpuAt    time.Time // CPU time was asked for
	purse    purse
}

var _ activities.Watcher = (*watcher)(nil)

// run samples until ctx ends.
func (w *watcher) run(ctx context.Context) {
	for {
		t := time.NewTimer(w.period())
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-w.wake:
			t.Stop()
			continue
		case <-t.C:
		}
		if w.idle() {
			continue
		}
		if err := w.sample(ctx, ""); err != nil && ctx.Err() == nil {
			w.log.Debug("sample_failed", "error", err)
		}
		w.guard() // also when libvirtd does not answer
		w.growth(ctx)
		w.memory(ctx)
	}
}

func (w *watcher) idle() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.vms) == 0
}

// period is that of the most demanding VM, as long as that is not too dear.
func (w *watcher) period() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	p, worth := maxPeriod, slowestRound
	for _, e := range w.vms {
		p = min(p, periodOf(e.RPO))
		if e.RPO > 0 {
			worth = min(worth, e.RPO/leastPerRPO)
		}
	}
	asked := float64(len(w.vms))
	if w.asked != nil {
		asked = min(*w.asked, asked)
	}
	cost := asked*float64(unitCost) + float64(len(w.vms))*float64(lookCost)
	return max(p, min(time.Duration(cost/costShare), worth))
}

func periodOf(rpo time.Duration) time.Duration {
	if rpo <= 0 {
		return time.Second
	}
	return min(max(rpo/periodPerRPO, minPeriod), maxPeriod)
}

// sample asks for the counters of all VMs in one call and takes them in, or only those of the VM asking: of that one nothing is
// told, it gets it with its answer.
func (w *watcher) sample(ctx context.Context, asking string) error {
	w.sampling.Lock()
	defer w.sampling.Unlock()
	ctx, cancel := context.WithTimeout(ctx, statsLimit)
	defer cancel()
	q, at := w.query(asking), w.now()
	if len(q.Only) == 0 {
		return nil
	}
	told := q.Only
	parts := w.part(&q, asking != "" || q.CPU, at)
	var stats []hypervisor.Stats
	if len(q.Only) > 0 {
		var err error
		if stats, err = w.hv.Stats(ctx, q); err != nil {
			return err
		}
	}
	load := w.hostLoad(ctx)
	seen := make(map[string]hypervisor.Stats, len(stats))
	for _, s := range stats {
		seen[s.UUID] = s
	}
	w.mu.Lock()
	var due []signal
	pressed, crowded := w.bands.changed(load, at), w.crowded(load)
	if q.CPU {
		w.cpuAt = at
	}
	if asking == "" {
		asked := float64(len(q.Only))
		if w.asked != nil {
			asked = max(asked, (*w.asked+asked)/2)
		}
		w.asked = &asked
	}
	for _, uuid := range told {
		e, ok := w.vms[uuid]
		if !ok {
			continue // forgotten meanwhile
		}
		first := false
		if s, ok := seen[uuid]; ok {
			first = w.feed(e, s, parts.marks[uuid], at)
		} else if parts.quiet[uuid] {
			e.Meter.quiet(at)
		} else {
			first = e.Meter.missing()
		}
		if first {
			w.list.save(e)
		}
		if uuid == asking {
			e.tell = ""
			continue
		}
		if why := w.consider(e, first, cmp.Or(pressed, crowded[uuid])); why != "" {
			due = append(due, signal{uuid, "utilization/", why})
		}
	}
	for uuid, s := range w.stills {
		if w.vms[uuid] == nil {
			s.close()
			delete(w.stills, uuid)
		}
	}
	w.mu.Unlock()
	for _, d := range due {
		w.utilization(ctx, d, load)
	}
	if q.CPU && asking == "" {
		w.relook(ctx, q.Only)
	}
	return nil
}

// feed takes an answer in. What the kernel did not count is as old as the last answer.
func (w *watcher) feed(e *entry, s hypervisor.Stats, m mark, at time.Time) (first bool) {
	uuid, before := e.VM.UUID, e.Meter.Last
	if !m.moved {
		e.Meter.doubt()
	}
	first = e.Meter.feed(sampleOf(s, at))
	wrote := before != nil && (s.WriteReqs != before.Reqs || s.WriteBytes != before.Bytes)
	w.answered(uuid, s.Run, m, at)
	if m.known && !m.moved && wrote && before.Run == s.Run {
		w.stills[uuid].doubted = true
		w.log.Info("write_not_counted_by_the_kernel", "vm", e.VM.Name)
	}
	return first
}

func (w *watcher) standsStill(uuid string) bool { return w.stopped != nil && w.stopped(uuid) }

// query is what to ask: an answer costs libvirtd most of what sampling costs, so no more than is used.
func (w *watcher) query(asking string) (q hypervisor.StatsQuery) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if asking != "" {
		if _, ok := w.vms[asking]; ok && !w.standsStill(asking) {
			q.Only = []string{asking}
		}
		return q
	}
	for uuid := range w.vms {
		if !w.standsStill(uuid) {
			q.Only = append(q.Only, uuid)
		}
	}
	q.CPU = w.cpuAt.IsZero() || w.now().Sub(w.cpuAt) >= cpuEvery
	return q
}

// Serve implements activities.Watcher.
func (w *watcher) Serve(in activities.Watched) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e, ok := w.vms[in.VM.UUID]
	if !ok {
		e = &entry{VM: in.VM, Blind: !in.Committed.IsZero()}
		w.vms[in.VM.UUID] = e
	}
	before := *e
	if !in.Started.IsZero() {
		e.started(in.Generation, in.Started)
	}
	e.VM, e.Generation, e.Muted = in.VM, max(e.Generation, in.Generation), false
	if in.RPO > 0 {
		e.RPO = in.RPO
	}
	e.committed(in.Committed)
	if !ok || before.Generation != e.Generation || before.Muted || before.RPO != e.RPO || before.Committed != e.Committed || before.Runs != e.Runs {
		w.list.save(e)
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Capturing implements activities.Watcher. When the counters cannot be asked now, the last sample is the base: what was
// written after it counts as not captured.
func (w *watcher) Capturing(ctx context.Context, vm model.VMRef, p model.PointRef) {
	if err := w.sample(ctx, vm.UUID); err != nil {
		w.log.Warn("capture_without_fresh_counters", "vm", vm.Name, "point", p.String(), "error", err)
	}
	w.change(vm, func(e *entry) { e.Meter.capturing(p, w.now()) })
}

// Captured implements activities.Watcher.
func (w *watcher) Captured(vm model.VMRef, p model.PointRef, takenAt time.Time) (oldest *time.Time) {
	w.change(vm, func(e *entry) {
		oldest = e.Meter.captured(p, takenAt)
		if e.Blind {
			oldest = nil
		}
		e.Runs, e.down = true, false
	})
	return oldest
}

// Abandoned implements activities.Watcher.
func (w *watcher) Abandoned(vm model.VMRef, p model.PointRef) {
	w.change(vm, func(e *entry) { e.Meter.abandoned(p) })
}

// Verified implements activities.Watcher.
func (w *watcher) Verified(vm model.VMRef, p model.PointRef) {
	w.change(vm, func(e *entry) {
		e.committed(p)
	})
}

// Yield implements activities.Watcher.
func (w *watcher) Yield(vm model.VMRef, below model.Generation) {
	w.change(vm, func(e *entry) { e.Muted = e.Muted || e.Generation < below })
}

// exposure is the oldest write of a VM that is in no verified point, as far as it is known, and its target.
func (w *watcher) exposure(uuid string) (oldest *time.Time, rpo time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e, ok := w.vms[uuid]
	if !ok {
		return nil, 0
	}
	return e.Meter.exposure(), e.RPO
}

// served is the number of VMs that are protected from here.
func (w *watcher) served() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, e := range w.vms {
		if !e.Muted {
			n++
		}
	}
	return n
}

func (w *watcher) change(vm model.VMRef, do func(*entry)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e, ok := w.vms[vm.UUID]; ok {
		do(e)
		w.list.save(e)
	}
}

// Forget implements activities.Watcher.
func (w *watcher) Forget(vm model.VMRef) error {
	w.link.forget(vm.UUID)
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.vms, vm.UUID)
	return w.list.remove(vm.UUID)
}

// Observe implements activities.Watcher.
func (w *watcher) Observe(ctx context.Context, vm model.VMRef) (model.Observation, error) {
	d, err := w.hv.Domain(ctx, vm.UUID)
	if err != nil {
		return model.Observation{}, err
	}
	if err := w.sample(ctx, vm.UUID); err != nil {
		return model.Observation{}, err
	}
	load := w.hostLoad(ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	e, ok := w.vms[vm.UUID]
	if !ok {
		return model.Observation{}, model.Fail(model.NotFound, nil, "the VM is not watched here").WithVM(vm.Name).WithHost(w.host)
	}
	o := w.observation(e, load)
	o.Running, o.State = d.State.Active(), string(d.State)
	e.trend.tell(e.Meter.rate) // the protection knows it now
	e.grown.trend.tell(e.grown.rate)
	e.tell, e.toldUse, e.answering = "", load.LinkUse, model.PointRef{}
	if o.Running {
		e.down = false
		if !e.Runs {
			e.Runs = true
			w.list.save(e)
		}
	}
	return o, nil
}
