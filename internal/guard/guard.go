package guard

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"understudy/internal/model"
)

// Options of a guard. Zero durations take the protocol's values; tests shorten them.
type Options struct {
	RunDir, StateDir string
	Watchdog         string // device; empty: none
	WatchdogLevel    int    // of a device that does not tell its kind
	Disarm           bool   // stop the watchdog at a clean end even while VMs are leased
	Log              *slog.Logger

	Proc        string        // /proc
	Every       time.Duration // between two scans
	Early       time.Duration // before a deadline
	FreezeProof time.Duration // until a freeze that is not proved becomes a kill
	KillProof   time.Duration
}

func (o *Options) defaults() {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&o.Every, time.Second)
	set(&o.Early, model.GuardEarly)
	set(&o.FreezeProof, time.Second)
	set(&o.KillProof, time.Second)
	if o.Proc == "" {
		o.Proc = "/proc"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

// Guard is the process's state. The lock is never held over a disk, a proof or another process.
type Guard struct {
	o       Options
	boot    string
	store   store
	journal *journal
	hand    hand
	alarm   *alarm
	dog     *watchdog
	only    *os.File   // the lock of the one guard of these folders
	listing sync.Mutex // one change of the list at a time
	acts    sync.WaitGroup

	mu      sync.Mutex
	vms     map[string]*vm
	longest time.Duration // from an order to its proof
	scanned error         // of the last scan
	hungry  string        // why the watchdog is not fed
}

// vm is one protected VM.
type vm struct {
	rec    record
	copies map[int]*copyOf
	act    sync.Mutex // one order is carried out at a time
}

// copyOf is one process of a VM as the last scan saw it.
type copyOf struct {
	process
	want   order
	why    string
	since  model.BootTime // of want
	seen   model.BootTime // it was there then
	proved bool
	busy   bool
}

// New reads back what an earlier guard of this boot knew. A list that cannot be read is an error: without it nobody knows
// what to guard, and the start gate refuses everything that might be on it.
func New(o Options) (*Guard, error) {
	o.defaults()
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	s, err := openStore(o.RunDir, o.StateDir)
	if err != nil {
		return nil, err
	}
	only, err := os.OpenFile(filepath.Join(o.RunDir, "guard.lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, model.Fail(model.Internal, err, "cannot lock %s", o.RunDir)
	}
	if err := unix.Flock(int(only.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = only.Close()
		return nil, model.Fail(model.Conflict, err, "another guard serves %s", o.RunDir)
	}
	list, err := Protected(o.StateDir)
	if err != nil {
		_ = only.Close()
		return nil, model.Fail(model.Internal, err, "the list of protected VMs cannot be read").
			WithTry("understudy hosts, and write their UUIDs back to " + s.list)
	}
	a, err := newAlarm()
	if err != nil {
		_ = only.Close()
		return nil, err
	}
	g := &Guard{
		o: o, boot: boot, store: s, alarm: a, only: only, vms: map[string]*vm{},
		hand: hand{procfs{o.Proc}, o.FreezeProof, o.KillProof},
	}
	for _, u := range list {
		uuid, err := canonical(u)
		if err != nil {
			o.Log.Error("list", "uuid", u, "error", err)
			continue
		}
		rec, err := s.read(uuid, boot)
		if err != nil {
			o.Log.Error("record", "uuid", uuid, "error", err)
		}
		g.vms[uuid] = &vm{rec: rec, copies: map[int]*copyOf{}}
	}
	s.tidy(func(uuid string) bool { return g.vms[uuid] != nil })
	g.journal = openJournal(filepath.Join(o.StateDir, "guard.log"))
	g.dog = newWatchdog(o.Watchdog, o.WatchdogLevel)
	return g, nil
}

// Run guards and answers until ctx ends. The watchdog is stopped then only if nobody counts on it.
func (g *Guard) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	rung := make(chan struct{})
	go func() {
		defer close(rung)
		<-ctx.Done()
		g.alarm.ring()
	}()
	g.journal.note(Event{Event: "start", Why: g.boot})
	g.tick() // what may not run stands before anybody is answered
	served := make(chan error, 1)
	go func() {
		served <- g.serve(ctx)
		cancel()
	}()
	err := g.watch(ctx)
	cancel()
	err = errors.Join(err, <-served)
	<-rung
	g.acts.Wait()
	g.finish()
	return err
}

// watch is the loop; it has a thread of its own.
func (g *Guard) watch(ctx context.Context) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	level := -1
	for ctx.Err() == nil {
		next := g.tick()
		if l, why := g.dog.level(); l != level {
			level = l
			g.o.Log.Info("level", "level", l, "watchdog", g.o.Watchdog, "why", why)
			g.journal.note(Event{Event: "level", Level: l, Why: why})
		}
		if err := g.alarm.wait(next); err != nil {
			return err
		}
	}
	return nil
}

func (g *Guard) finish() {
	leased := ""
	g.mu.Lock()
	for uuid, v := range g.vms {
		if v.rec.bound() && (v.rec.Floor <= v.rec.Generation || len(v.copies) > 0) {
			leased = uuid
		}
	}
	g.mu.Unlock()
	why := "no VM is leased"
	if leased != "" {
		why = "leased VMs remain: " + leased
	}
	g.dog.close(leased == "" || g.o.Disarm)
	g.journal.note(Event{Event: "stop", Why: why})
	g.journal.close()
	g.alarm.close()
	_ = g.only.Close()
}

// tick gives every copy its order, feeds the watchdog and says when to look again. The copies that are known have theirs
// before the scan for others, which takes its time on a busy host.
func (g *Guard) tick() model.BootTime {
	g.mu.Lock()
	g.orders(now())
	g.mu.Unlock()
	looked := now()
	found, err := g.hand.proc.scan(g.knows)
	at := now()
	next := at.Add(g.o.Every)
	g.mu.Lock()
	if err != nil && g.scanned == nil {
		g.o.Log.Error("scan", "error", err)
		g.journal.note(Event{Event: "error", Why: "scan: " + err.Error()})
	}
	g.scanned = err
	if err == nil {
		g.meet(found, looked, at)
	}
	starving := g.orders(at)
	for _, v := range g.vms {
		if act := v.rec.Deadline.Add(-g.o.Early); at < act {
			next = min(next, act)
		}
	}
	if starving == "" && err != nil {
		starving = "the last scan failed"
	}
	changed := starving != g.hungry
	g.hungry = starving
	g.mu.Unlock()
	if changed && starving != "" {
		g.o.Log.Error("starve", "why", starving)
		g.journal.note(Event{Event: "starve", Why: starving})
	}
	if starving == "" {
		g.dog.feed()
	}
	return next
}

// orders goes over all VMs and returns why the watchdog must not be fed. Under the lock.
func (g *Guard) orders(at model.BootTime) (starving string) {
	for uuid, v := range g.vms {
		if late := g.order(v, at); late != "" {
			starving = uuid + ": " + late
		}
	}
	return starving
}

func (g *Guard) knows(uuid string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.vms[uuid] != nil
}

// meet notes which copies there are now. Under the lock.
func (g *Guard) meet(found []process, looked, at model.BootTime) {
	seen := map[process]bool{}
	for _, p := range found {
		v := g.vms[p.UUID]
		if v == nil {
			continue
		}
		seen[p] = true
		if c := v.copies[p.PID]; c != nil && c.process == p {
			c.seen = looked
			continue
		}
		v.copies[p.PID] = &copyOf{process: p, since: at, seen: looked}
		g.journal.note(Event{Event: "found", UUID: p.UUID, PID: p.PID, Started: p.Started, Generation: v.rec.Generation, Mode: v.rec.Mode})
	}
	for _, v := range g.vms {
		for pid, c := range v.copies {
			if !seen[c.process] {
				delete(v.copies, pid)
				g.journal.note(Event{Event: "gone", UUID: c.UUID, PID: pid, Started: c.Started, Seen: c.seen})
			}
		}
		if n := len(v.rec.Frozen); n > 0 {
			v.rec.Frozen = slices.DeleteFunc(slices.Clone(v.rec.Frozen), func(f frozen) bool { return !seen[process{v.rec.UUID, f.PID, f.Started}] })
			if len(v.rec.Frozen) != n {
				g.save(v.rec)
			}
		}
	}
}

// save writes a record to the tmpfs. Under the lock.
func (g *Guard) save(r record) {
	if err := g.store.write(r); err != nil {
		g.o.Log.Error("record", "uuid", r.UUID, "error", err)
		g.journal.note(Event{Event: "error", UUID: r.UUID, Why: err.Error()})
	}
}
