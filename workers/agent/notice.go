package agent

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"understudy/internal/contract"
	"understudy/internal/decide/allocate"
	"understudy/internal/decide/mode"
	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

// useStep is by how much the use of the link must grow before VMs are told of it one by one.
const useStep = 0.1

// signal is one that was decided on and paid for.
type signal struct {
	uuid string
	key  string // of the outbox; what is told under different keys does not replace each other
	why  string
}

// consider says why the protection should be told now; empty when it need not be. What cannot be paid now is told later, except
// for what may be out of date by then.
func (w *watcher) consider(e *entry, first bool, pressed string) string {
	switch {
	case e.Muted:
		return ""
	case first:
		e.tell = "the first write since the last capture"
	case e.tell != "":
	default:
		why := pressed
		if e.trend.changed(e.Meter.rate) {
			why = "the write rate changed"
		} else if e.grown.changed() {
			why = "the rate of blocks written for the first time changed"
		}
		if why == "" || !e.budget.spend(w.now(), e.RPO, true) {
			return ""
		}
		return why
	}
	if e.answered(w.now()) {
		return ""
	}
	why := e.tell
	if !e.budget.spend(w.now(), e.RPO, false) {
		return ""
	}
	e.tell = ""
	return why
}

// utilization tells it with a fresh count of dirty bytes.
func (w *watcher) utilization(ctx context.Context, s signal, load model.HostLoad) {
	w.askDirty(ctx, s.uuid)
	w.mu.Lock()
	defer w.mu.Unlock()
	e, ok := w.vms[s.uuid]
	if !ok || e.Muted {
		return
	}
	e.trend.tell(e.Meter.rate)
	e.grown.trend.tell(e.grown.rate)
	o := w.observation(e, load)
	e.toldUse = load.LinkUse
	o.Running, o.State = true, string(hypervisor.Running)
	w.put(s, o)
}

func (w *watcher) put(s signal, o model.Observation) {
	in := contract.UtilizationIn{Observation: o, Why: s.why}
	w.out.put(s.key+s.uuid, message{send: func(ctx context.Context) error { return w.to.Utilization(ctx, s.uuid, in) }})
}

func (w *watcher) observation(e *entry, load model.HostLoad) model.Observation {
	o := model.Observation{
		At: w.now().UTC(), WrittenBytes: e.Meter.Since.Bytes, WriteReqs: e.Meter.Since.Reqs, WriteRate: e.Meter.rate,
		OldestWrite: e.Meter.Since.Oldest, AtRisk: e.Meter.exposure(), DirtyBytes: -1, SamplePeriod: e.Meter.gap.Seconds(),
		GuestCPU: e.Meter.cpu, DirtyRate: e.grown.rate, HostCPU: load.CPU, HostLoad1: load.Load1, Host: &load,
	}
	if g := e.grown; g.of == e.Committed && g.bytes >= 0 && o.At.Sub(g.at) <= fresh {
		o.DirtyBytes, o.DirtyAt = g.bytes, &g.at
	}
	if r := e.recalled.rate; r != nil && o.At.Sub(r.At) <= memoryFresh {
		o.Memory = r
	}
	if e.Blind { // it wrote, and nobody knows since when
		o.OldestWrite, o.AtRisk, o.WriteReqs = nil, nil, max(o.WriteReqs, 1)
	}
	return o
}

// crowded says to which VMs the use of the link now gives a start that they do not know of: since they were told last it grew
// enough to bring their start before this moment.
func (w *watcher) crowded(load model.HostLoad) map[string]string {
	if load.LinkBudget <= 0 {
		return nil
	}
	in := allocate.Input{Now: w.now(), Budget: load.LinkBudget, Load: load.LinkUse}
	for uuid, e := range w.vms {
		if !e.Muted && e.RPO > 0 && len(e.Meter.Open) == 0 && load.LinkUse >= e.toldUse+useStep {
			in.VMs = append(in.VMs, allocate.VM{ID: uuid, RPO: e.RPO, Oldest: e.Meter.Since.Oldest})
		}
	}
	if len(in.VMs) == 0 {
		return nil
	}
	out := map[string]string{}
	for _, g := range allocate.Allocate(in).Grants {
		if g.Start {
			out[g.ID] = g.Reason
		}
	}
	return out
}

// hostLoad must not be asked while mu is held: the shares ask the watcher back.
func (w *watcher) hostLoad(ctx context.Context) model.HostLoad {
	load := w.load.Measure(ctx)
	load.LinkBudget, load.LinkUse = w.link.Use()
	return load
}

// --- dirty bytes ---------------------------------------------------------------------------------------------------------

const (
	fresh       = 2 * minPeriod // a count of dirty bytes is told for this long
	dirtyLimit  = time.Second
	growthFloor = 1 << 20 // written since the last count; less does not change the plan
	growthEvery = 10      // counts in one RPO target at most
	growthLeast = 2 * time.Second
)

// grown is what the counts of dirty bytes say about one VM: they grow by what was not dirty before.
type grown struct {
	of      model.PointRef
	bytes   int64
	at      time.Time
	written int64 // meter.total then
	rate    float64
	judged  bool // by the trend
	trend   trend
}

// count takes in a new one; after another point was committed it has nothing to be compared with.
func (g *grown) count(of model.PointRef, bytes int64, at time.Time, written int64) {
	if d := at.Sub(g.at).Seconds(); g.of == of && g.bytes >= 0 && bytes >= g.bytes && d > 0.1 {
		g.rate, g.judged = float64(bytes-g.bytes)/d, false
	}
	g.of, g.bytes, g.at, g.written = of, bytes, at, written
}

// changed judges each rate once.
func (g *grown) changed() bool {
	if g.judged {
		return false
	}
	g.judged = true
	return g.trend.changed(g.rate)
}

// purse pays for counting dirty bytes, which costs a call for each VM: a share of the time, whatever the number of VMs.
type purse struct {
	saved time.Duration
	at    time.Time
}

const (
	purseShare = 0.002
	purseFull  = 20 * time.Millisecond
)

func (p *purse) refill(now time.Time) {
	if !p.at.IsZero() {
		p.saved = min(p.saved+time.Duration(purseShare*float64(max(now.Sub(p.at), 0))), purseFull)
	}
	p.at = now
}

// growth counts the dirty bytes of the VM that wrote most since its last count, when that is due and paid for.
func (w *watcher) growth(ctx context.Context) {
	w.mu.Lock()
	now := w.now()
	w.purse.refill(now)
	next, most := "", int64(growthFloor-1)
	for uuid, e := range w.vms {
		wrote := e.Meter.total - e.grown.written
		due := now.Sub(e.grown.at) >= max(e.RPO/growthEvery, growthLeast)
		if w.purse.saved > 0 && due && wrote > most && !e.Muted && !e.Committed.IsZero() && len(e.Meter.Open) == 0 && !w.standsStill(uuid) {
			next, most = uuid, wrote
		}
	}
	w.mu.Unlock()
	if next != "" {
		w.askDirty(ctx, next)
	}
}

// askDirty counts; without an answer the last count stays, and is asked for again in time.
func (w *watcher) askDirty(ctx context.Context, uuid string) {
	w.mu.Lock()
	e, ok := w.vms[uuid]
	if !ok || w.dirty == nil || e.Committed.IsZero() || w.now().Sub(e.grown.at) < minPeriod {
		w.mu.Unlock()
		return
	}
	vm, of, written := e.VM, e.Committed, e.Meter.total
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, dirtyLimit)
	defer cancel()
	at, begun := w.now(), time.Now()
	n, err := w.dirty(ctx, vm, of)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.purse.saved -= time.Since(begun)
	if err != nil {
		n = -1
	}
	if e, ok := w.vms[uuid]; ok {
		e.grown.count(of, n, at.UTC(), written)
	}
}

// --- the host ------------------------------------------------------------------------------------------------------------

// bands notice when the host becomes busy in a way that matters to plans, and when that is over.
type bands struct {
	high []string
	at   time.Time // of the last change
}

const bandHold = time.Minute // two changes are at least so far apart: it is told to every VM

// changed gives the words to be told; empty when nothing changed.
func (b *bands) changed(l model.HostLoad, now time.Time) string {
	var high []string
	for _, x := range []struct {
		name      string
		value     float64
		from, end float64
	}{
		{"the link's budget is nearly used up", l.LinkUse, 0.9, 0.75},
		{"work waits for the host's disks", l.PressureIO, 0.5, 0.2},
		{"work waits for the host's memory", l.PressureMemory, 0.2, 0.05},
		{"work waits for the host's cores", max(l.PressureCPU, l.CPU-0.35), 0.6, 0.3},
	} {
		if x.value >= x.from || x.value > x.end && slices.Contains(b.high, x.name) {
			high = append(high, x.name)
		}
	}
	if slices.Equal(high, b.high) || !b.at.IsZero() && now.Sub(b.at) < bandHold {
		return ""
	}
	before := b.high
	b.high, b.at = high, now
	for _, name := range high {
		if !slices.Contains(before, name) {
			return name
		}
	}
	return "no more: " + before[0]
}

// --- exposure ------------------------------------------------------------------------------------------------------------

// late remembers what was said about an exposure.
type late struct {
	level mode.Level
	said  time.Time
}

const sayAgain = 10 * time.Second // and no sooner than an RPO

// guard says when an exposure goes beyond its target, and beyond twice of it. It rests on nothing but this process: the loop
// that should have made a point, its worker or the server may be what is stuck.
func (w *watcher) guard() {
	w.mu.Lock()
	now := w.now()
	var over []string
	for uuid, e := range w.vms {
		if e.passes(now) {
			over = append(over, uuid)
		}
	}
	w.mu.Unlock()
	for _, uuid := range over {
		w.warn(uuid, w.link.binds(uuid))
	}
}

// passes says that the exposure reached a level that was not said yet. Before the first point nothing is promised.
func (e *entry) passes(now time.Time) bool {
	level := e.level(now)
	if level < mode.Violated {
		e.late.level = level
		return false
	}
	if level <= e.late.level {
		return false
	}
	if e.late.level < mode.Violated && level == mode.Violated && !e.late.said.IsZero() && now.Sub(e.late.said) < max(e.RPO, sayAgain) {
		return false // it was said a moment ago, and one point came between
	}
	e.late = late{level, now}
	return true
}

func (e *entry) level(now time.Time) mode.Level {
	oldest := e.Meter.exposure()
	if oldest == nil || e.RPO <= 0 || e.Muted || e.Blind || e.Committed.IsZero() {
		return mode.Met
	}
	return mode.LevelOf(now.Sub(*oldest), e.RPO)
}

func (w *watcher) warn(uuid, binds string) {
	budget, use := w.link.Use()
	w.mu.Lock()
	defer w.mu.Unlock()
	e, ok := w.vms[uuid]
	if !ok || e.Meter.exposure() == nil {
		return
	}
	age := w.now().Sub(*e.Meter.exposure())
	w.log.Warn("rpo_violated", "vm", e.VM.Name, "oldest_unreplicated_write", age.Round(100*time.Millisecond).String(), "target", e.RPO.String(),
		"times_the_target", math.Round(10*age.Seconds()/e.RPO.Seconds())/10, "link", binds)
	why := fmt.Sprintf("the oldest write in no verified point is %s old, the target is %s", age.Round(100*time.Millisecond), e.RPO)
	if binds != "" {
		why += "; on the link: " + binds
	}
	if !e.budget.spend(w.now(), e.RPO, false) {
		e.tell = why // with the next signal
		return
	}
	o := w.observation(e, model.HostLoad{PressureCPU: -1, PressureMemory: -1, PressureIO: -1, LinkBudget: budget, LinkUse: use})
	o.Host, o.Running, o.State = nil, true, string(hypervisor.Running)
	w.put(signal{uuid, "exposure/", why}, o)
}

// late names the VMs that are beyond their targets now.
func (w *watcher) late() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, e := range w.vms {
		if e.level(w.now()) >= mode.Violated {
			out = append(out, e.VM.Name)
		}
	}
	slices.Sort(out)
	return out
}
