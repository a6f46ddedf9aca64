// Package hostload measures how busy this host is: share of its cores, load average, space of a file system.
package hostload

import (
	"context"
	"sync"
	"time"

	"github.com/shirou/gopsutil/v3/cpu"
	"github.com/shirou/gopsutil/v3/disk"
	"github.com/shirou/gopsutil/v3/load"
)

// minGap is the shortest time over which a share of the cores means anything: the kernel counts in hundredths of a second.
const minGap = 200 * time.Millisecond

// Load is one measurement.
type Load struct {
	CPU   float64 // share of all cores in use since the measurement before, 0..1
	Load1 float64 // load average of a minute
}

// Meter measures the share of the cores between its calls. Safe for concurrent use.
type Meter struct {
	mu    sync.Mutex
	at    time.Time
	last  cpu.TimesStat
	share float64
}

// Measure never fails: what the kernel does not say is zero or as before.
func (m *Meter) Measure(ctx context.Context) Load {
	out := Load{CPU: m.cpu(ctx)}
	if avg, err := load.AvgWithContext(ctx); err == nil {
		out.Load1 = avg.Load1
	}
	return out
}

func (m *Meter) cpu(ctx context.Context) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if !m.at.IsZero() && now.Sub(m.at) < minGap {
		return m.share
	}
	times, err := cpu.TimesWithContext(ctx, false)
	if err != nil || len(times) == 0 {
		return m.share
	}
	if !m.at.IsZero() {
		m.share = busyShare(m.last, times[0], m.share)
	}
	m.at, m.last = now, times[0]
	return m.share
}

// busyShare keeps the old value when no time passed; stolen time is not ours, so it counts as busy.
func busyShare(a, b cpu.TimesStat, old float64) float64 {
	total := sum(b) - sum(a)
	if total <= 0 {
		return old
	}
	idle := (b.Idle + b.Iowait) - (a.Idle + a.Iowait)
	return min(max(1-idle/total, 0), 1)
}

func sum(t cpu.TimesStat) float64 {
	return t.User + t.System + t.Idle + t.Nice + t.Iowait + t.Irq + t.Softirq + t.Steal
}

// Cores is the number of logical cores; 0 when it cannot be asked.
func Cores(ctx context.Context) int {
	n, err := cpu.CountsWithContext(ctx, true)
	if err != nil {
		return 0
	}
	return n
}

// Disk says how much of the file system at path is free for us and how large it is, in bytes.
func Disk(ctx context.Context, path string) (free, total int64, err error) {
	u, err := disk.UsageWithContext(ctx, path)
	if err != nil {
		return 0, 0, err
	}
	return int64(u.Free), int64(u.Total), nil
}
