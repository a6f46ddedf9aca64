package agent

import (
	"context"
	"slices"
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
			w.happened(e, true)
		}
	}
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
	case found && d.State.Active():
		return model.Event{Kind: model.EventStarted, Detail: "it runs"}, true
	case !e.Runs || e.down:
		return model.Event{}, false
	case !found:
		return model.Event{Kind: model.EventVanished, Detail: "libvirt does not know it any more"}, true
	case d.State == hypervisor.Crashed || d.Reason == "crashed":
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
	case model.EventStarted, model.EventResumed, model.EventPaused:
		e.down = false
		if !e.Runs {
			e.Runs = true
			w.list.save(e)
		}
	case model.EventStopped, model.EventCrashed, model.EventVanished:
		if e.down && w.out.holds(key) && ev.Kind != model.EventCrashed {
			return // libvirt says "stopped" after "crashed", which still waits and matters more
		}
		e.down = true
		// Until it is delivered the file says that the VM should run: an agent that dies now tells it again.
		m.done = func() { w.delivered(uuid) }
	}
	w.out.put(key, m)
}

func (w *watcher) delivered(uuid string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e, ok := w.vms[uuid]; ok && e.down && e.Runs {
		e.Runs = false
		w.list.save(e)
	}
}
