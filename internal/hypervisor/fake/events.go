package fake

import (
	"context"
	"time"

	"understudy/internal/model"
)

// watcher is one receiver of events, with those it has not taken yet.
type watcher struct {
	cancel      context.CancelFunc
	wake        chan struct{}
	queue       []model.Event
	lost        bool // the connection was lost and is there again
	reconnected func()
}

// tell queues an event for every receiver; the lock is held.
func (h *Hypervisor) tell(d *domain, kind model.EventKind, detail string) {
	h.told(d, model.Event{Kind: kind, Detail: detail})
}

func (h *Hypervisor) told(d *domain, e model.Event) {
	e.VM, e.At = d.d.VM, time.Now().UTC()
	for w := range h.watchers {
		w.queue = append(w.queue, e)
		w.poke()
	}
}

func (w *watcher) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Reconnect is a restart of libvirtd as receivers of events see it: what was not delivered yet is lost.
func (h *Hypervisor) Reconnect() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watchers {
		w.queue, w.lost = nil, true
		w.poke()
	}
}

// Events implements hypervisor.Hypervisor.
func (h *Hypervisor) Events(ctx context.Context, reconnected func()) (<-chan model.Event, error) {
	if err := h.enter(ctx, "Events", ""); err != nil {
		return nil, err
	}
	defer h.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	w := &watcher{cancel: cancel, wake: make(chan struct{}, 1), lost: true, reconnected: reconnected}
	h.watchers[w] = true
	out := make(chan model.Event)
	go h.deliver(ctx, w, out)
	w.poke()
	return out, nil
}

func (h *Hypervisor) deliver(ctx context.Context, w *watcher, out chan<- model.Event) {
	defer close(out)
	defer func() {
		h.mu.Lock()
		delete(h.watchers, w)
		h.mu.Unlock()
		w.cancel()
	}()
	for {
		h.mu.Lock()
		lost := w.lost
		w.lost = false
		var next model.Event
		some := !lost && len(w.queue) > 0
		if some {
			next, w.queue = w.queue[0], w.queue[1:]
		}
		h.mu.Unlock()
		switch {
		case lost:
			if w.reconnected != nil {
				w.reconnected()
			}
		case some:
			select {
			case out <- next:
			case <-ctx.Done():
				return
			}
		default:
			select {
			case <-w.wake:
			case <-ctx.Done():
				return
			}
		}
	}
}
