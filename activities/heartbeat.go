package activities

import (
	"context"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"
)

// beat tells the server twice a second that the activity lives, also while libvirt or qemu-img keeps us waiting; the
// SDK throttles. It also carries the newest progress. Without it a task on a frozen host would only end by its
// start-to-close limit.
type beat struct {
	mu     sync.Mutex
	detail any
	kept   []any // told after the detail
	stop   context.CancelFunc
	done   chan struct{}
}

const beatPeriod = 500 * time.Millisecond

func startBeat(ctx context.Context) *beat {
	beatCtx, stop := context.WithCancel(ctx)
	b := &beat{stop: stop, done: make(chan struct{})}
	go func() {
		defer close(b.done)
		tick := time.NewTicker(beatPeriod)
		defer tick.Stop()
		for {
			b.record(ctx)
			select {
			case <-beatCtx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	return b
}

func (b *beat) set(detail any) {
	b.mu.Lock()
	b.detail = detail
	b.mu.Unlock()
}

// keep tells something with every beat from now on, after the progress.
func (b *beat) keep(detail, kept any) {
	b.mu.Lock()
	b.detail, b.kept = detail, append(b.kept, kept)
	b.mu.Unlock()
}

func (b *beat) record(ctx context.Context) { activity.RecordHeartbeat(ctx, b.told()...) }

func (b *beat) told() []any {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.detail == nil {
		return nil
	}
	return append([]any{b.detail}, b.kept...)
}

// end stops the goroutine and waits for it.
func (b *beat) end() {
	b.stop()
	<-b.done
}
