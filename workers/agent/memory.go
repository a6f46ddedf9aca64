package agent

import (
	"context"
	"time"

	"understudy/internal/model"
)

// A guest's memory is looked at only while the guest writes, at most once a minute, and one VM at a time: each look takes
// libvirtd a job of some milliseconds and QEMU a checksum of 512 pages a GiB, twice.
const (
	memoryEvery  = time.Minute
	memoryPeriod = time.Second
	memoryEnds   = memoryPeriod + 500*time.Millisecond
	memoryLimit  = 3 * time.Second
	memoryFresh  = 5 * time.Minute
)

// memories estimates how fast guests dirty their memory.
type memories interface {
	StartMemoryRate(ctx context.Context, uuid string, over time.Duration) error
	MemoryRate(ctx context.Context, uuid string) (rate int64, done bool, err error)
}

// recalled is what is known of a VM's memory.
type recalled struct {
	at      time.Time // the last estimate was begun
	written int64     // by the VM until then
	rate    *model.MemoryRate
}

// measuring is the estimate under way; only run's goroutine uses it.
type measuring struct {
	uuid string
	ends time.Time
}

// memory ends the estimate under way, or begins that of the VM which waited longest. A capture that is open is not disturbed.
func (w *watcher) memory(ctx context.Context) {
	if w.memories == nil {
		return
	}
	now := w.now()
	if m := w.measuring; m.uuid != "" {
		if now.Before(m.ends) {
			return
		}
		w.measuring = measuring{}
		w.measured(ctx, m.uuid, now)
		return
	}
	next := w.nextMemory(now)
	if next == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, memoryLimit)
	defer cancel()
	if err := w.memories.StartMemoryRate(ctx, next, memoryPeriod); err != nil {
		w.log.Debug("memory_not_estimated", "vm", next, "error", err)
		return
	}
	w.measuring = measuring{next, now.Add(memoryEnds)}
}

// nextMemory is the VM whose turn it is; empty when nobody's.
func (w *watcher) nextMemory(now time.Time) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	next, oldest := "", now.Add(-memoryEvery)
	for uuid, e := range w.vms {
		if r := e.recalled; !r.at.After(oldest) && e.Meter.total > r.written && !e.Muted && len(e.Meter.Open) == 0 && !w.standsStill(uuid) {
			next, oldest = uuid, r.at
		}
	}
	if next != "" {
		e := w.vms[next]
		e.recalled.at, e.recalled.written = now, e.Meter.total // also when it comes to nothing
	}
	return next
}

func (w *watcher) measured(ctx context.Context, uuid string, now time.Time) {
	ctx, cancel := context.WithTimeout(ctx, memoryLimit)
	defer cancel()
	rate, done, err := w.memories.MemoryRate(ctx, uuid)
	if err != nil || !done {
		w.log.Debug("memory_not_estimated", "vm", uuid, "done", done, "error", err)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if e, ok := w.vms[uuid]; ok {
		e.recalled.rate = &model.MemoryRate{BytesPerSecond: rate, At: now.UTC()}
	}
}
