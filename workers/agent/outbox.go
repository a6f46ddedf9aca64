package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"understudy/internal/model"
)

// message is one thing to be told to a workflow. done (may be nil) is called when it was taken, or when nobody is there any
// more to take it.
type message struct {
	send func(ctx context.Context) error
	done func()
}

const (
	outboxFirstWait = 250 * time.Millisecond
	outboxMaxWait   = 5 * time.Second
)

// outbox delivers until Temporal answers: an agent often notices what matters exactly while the network is bad. Of each key
// only the newest message waits, because only the present state is of use later. Keys do not hold each other up.
type outbox struct {
	log *slog.Logger

	mu      sync.Mutex
	waiting map[string]message
	running map[string]bool
	wg      sync.WaitGroup
	ctx     context.Context
}

// newOutbox sends until ctx ends; wait after that.
func newOutbox(ctx context.Context, log *slog.Logger) *outbox {
	return &outbox{ctx: ctx, log: log, waiting: map[string]message{}, running: map[string]bool{}}
}

// put replaces what waits under the key.
func (o *outbox) put(key string, m message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ctx.Err() != nil {
		return
	}
	o.waiting[key] = m
	if !o.running[key] {
		o.running[key] = true
		o.wg.Add(1)
		go o.deliver(key)
	}
}

// holds says whether a message waits under the key.
func (o *outbox) holds(key string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, ok := o.waiting[key]
	return ok
}

func (o *outbox) next(key string) (message, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	m, ok := o.waiting[key]
	delete(o.waiting, key)
	if !ok || o.ctx.Err() != nil {
		delete(o.running, key)
		return message{}, false
	}
	return m, true
}

// back puts a message back unless a newer one came meanwhile.
func (o *outbox) back(key string, m message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, newer := o.waiting[key]; !newer {
		o.waiting[key] = m
	}
}

func (o *outbox) deliver(key string) {
	defer o.wg.Done()
	wait := outboxFirstWait
	for {
		m, ok := o.next(key)
		if !ok {
			return
		}
		err := m.send(o.ctx)
		if err == nil || model.KindOf(err) == model.NotFound {
			if m.done != nil {
				m.done()
			}
			wait = outboxFirstWait
			continue
		}
		o.log.Warn("signal_not_delivered", "key", key, "error", err, "again_in", wait.String())
		o.back(key, m)
		select {
		case <-o.ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, outboxMaxWait)
	}
}

// wait returns when no delivery runs any more; the outbox's context must have ended.
func (o *outbox) wait() { o.wg.Wait() }
