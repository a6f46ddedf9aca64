package agent

import (
	"context"
	"slices"
	"strings"
	"time"

	"understudy/internal/contract"
	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

// deliberate are libvirt's words for a domain that is off because somebody or the guest wanted it.
var deliberate = []string{"shutdown", "shut down", "destroyed", "saved", "migrated", "from snapshot"}

// events passes on what libvirt tells, until ctx ends. After every new connection the list is compared with what runs:
// what happened meanwhile was told to nobody.
func (w *watcher) events(ctx context.Context, subscribe func(ctx context.Context, reconnected func()) (<-chan model.Event, error)) {
	compare := make(chan struct{}, 1)
	ask := func() {
		select {
		case compare <- struct{}{}:
		default:
		}
	}
	var in <-chan model.Event
	retry := time.NewTicker(time.Second)
	defer retry.Stop()
	due := true
	for ctx.Err() == nil {
		if in == nil {
			ch, err := subscribe(ctx, ask)
			if err != nil {
				w.log.Warn("no_events_from_libvirt", "error", err)
			} else {
				in = ch // ask is called with the first connection too
			}
		}
		select {
		case <-ctx.Done():
		case <-compare:
			due = !w.compare(ctx)
		case <-retry.C:
			if due {
				due = !w.compare(ctx)
			}
		case e, ok := <-in:
			if !ok {
				in = nil
				continue
			}
			w.happened(w.complete(ctx, e), true)
		}
	}
}

// complete adds to a panic what libvirt does about it: a guest that is restarted needs nobody. When libvirt does not answer
// it counts as one that stays down.
func (w *watcher) complete(ctx context.Context, e model.Event) model.Event {
	if e.Kind != model.EventPanicked || e.Action != "" {
		return e
	}
	ctx, cancel := context.WithTimeout(ctx, statsLimit)
	defer cancel()
	if d, err := w.hv.Domain(ctx, e.VM.UUID); err == nil {
		e.Action = d.OnCrash
		if _, rest, ok := strings.Cut(d.OnCrash, "coredump-"); ok {
			e.Action = rest
		}
	}
	return e
}

// compare tells of each VM served here whether it runs; false when libvirt could not be asked.
func (w *watcher) compare(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	domains, err := w.hv.Domains(ctx)
	if err != nil {
		w.log.Debug("compare_failed", "error", err)
		return false
	}
	have := make(map[string]hypervisor.Domain, len(domains))
	for _, d := range domains {
		have[d.VM.UUID] = d
	}
	w.mu.Lock()
	var told []model.Event
	for uuid, e := range w.vms {
		d, found := have[uuid]
		if ev, ok := e.differs(d, found); ok {
			ev.VM, ev.At = e.VM, w.now().UTC()
			told = append(told, ev)
		}
	}
	w.mu.Unlock()
	for _, ev := range told {
		w.happened(ev, false)
	}
	return true
}

// differs says what must have happened without an event. A VM that runs is always told: the workflow may have been told
// the opposite before.
func (e *entry) differs(d hypervisor.Domain, found bool) (model.Event, bool) {
	switch {
	case found && d.State == hypervisor.Crashed:
		return model.Event{Kind: model.EventPanicked, Detail: d.Reason, Action: "preserve"}, !e.down
	case found && d.State == hypervisor.Paused && d.Reason == "I/O error":
		return model.Event{Kind: model.EventIOError, Detail: "it is paused by an I/O error", Reason: "unknown", Action: model.ActionPause}, true
	case found && d.State == hypervisor.Paused && d.Reason == "watchdog":
		return model.Event{Kind: model.EventWatchdog, Detail: "it is paused by its watchdog", Action: model.ActionPause}, true
	case found && d.State.Active():
		return model.Event{Kind: model.EventStarted, Detail: "it runs"}, true
	case !e.Runs || e.down:
		return model.Event{}, false
	case !found:
		return model.Event{Kind: model.EventVanished, Detail: "libvirt does not know it any more"}, true
	case d.Reason == "crashed":
		return model.Event{Kind: model.EventCrashed, Detail: d.Reason}, true
	case slices.Contains(deliberate, d.Reason):
		return model.Event{Kind: model.EventStopped, Detail: d.Reason}, true
	}
	return model.Event{Kind: model.EventVanished, Detail: "it does not run and nobody said why (" + d.Reason + ")"}, true
}

// happened passes one event on, when it is about a VM that is served here. Seen ones come from libvirt; the others were found
// by comparing.
func (w *watcher) happened(ev model.Event, seen bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e, ok := w.vms[ev.VM.UUID]
	if ok && seen {
		ev = e.byWatchdog(ev)
	}
	if ok && seen && (ev.Kind == model.EventStarted || ev.Kind == model.EventStopped || ev.Kind == model.EventCrashed) {
		e.Meter.missing() // a QEMU ended: its last writes were not sampled
	}
	if !ok || e.Muted {
		return
	}
	w.log.Info("vm_event", "vm", e.VM.Name, "kind", string(ev.Kind), "detail", ev.Detail)
	uuid, in := ev.VM.UUID, contract.VMEventIn{Host: w.host, Event: ev}
	m := message{send: func(ctx context.Context) error { return w.to.Event(ctx, uuid, in) }}
	key := "event/" + uuid
	switch ev.Kind {
	case model.EventIOError:
		key = "io-error/" + uuid // the pause that follows must not take its place
	case model.EventWatchdog:
		key = "watchdog/" + uuid // of the pause or stop that follows it is the cause
	case model.EventPanicked:
		if ev.Action == model.ActionRestart {
			key = "panic/" + uuid // it is only said; the restart that follows must not take its place
			break
		}
		e.down, e.why = true, ev.Detail
		m.done = func() { w.delivered(uuid) }
	case model.EventStarted, model.EventResumed, model.EventPaused:
		e.down = false
		if !e.Runs {
			e.Runs = true
			w.list.save(e)
		}
	case model.EventStopped, model.EventCrashed, model.EventVanished:
		if e.down && w.out.holds(key) && !strings.HasPrefix(ev.Detail, "the watchdog") {
			return // libvirt says "stopped" or "crashed" after "panicked" or "crashed", which still waits and says more
		}
		e.down, e.why = true, ev.Detail
		// Until it is delivered the file says that the VM should run: an agent that dies now tells it again.
		m.done = func() { w.delivered(uuid) }
	}
	w.out.put(key, m)
}

const watchdogHolds = time.Minute

// byWatchdog makes a crash of the stop that a watchdog caused: nobody wanted it, though libvirt calls it a shutdown.
func (e *entry) byWatchdog(ev model.Event) model.Event {
	switch {
	case ev.Kind == model.EventWatchdog && e.down && (ev.Action == model.ActionPoweroff || ev.Action == model.ActionShutdown):
		ev.Kind, ev.Detail = model.EventCrashed, "the watchdog ended it" // events of two kinds have no order
	case ev.Kind == model.EventWatchdog && (ev.Action == model.ActionPoweroff || ev.Action == model.ActionShutdown):
		e.fired = ev.At
	case ev.Kind == model.EventStopped && !e.fired.IsZero() && ev.At.Sub(e.fired) < watchdogHolds:
		ev.Kind, ev.Detail, e.fired = model.EventCrashed, "the watchdog ended it: "+ev.Detail, time.Time{}
	case ev.Kind == model.EventStarted:
		e.fired = time.Time{}
	}
	return ev
}

func (w *watcher) delivered(uuid string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e, ok := w.vms[uuid]; ok && e.down && e.Runs {
		e.Runs = false
		w.list.save(e)
	}
}
