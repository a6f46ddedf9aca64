// Package hostload measures how busy this host is: cores, memory, disks, network, and the pressure that the kernel sees; and
// the space of a file system.
package hostload

import (
	"context"
	"sync"
	"time"

	"github.com/shirou/gopsutil/v3/cpu"
	"github.com/shirou/gopsutil/v3/disk"
	"github.com/shirou/gopsutil/v3/load"
	"github.com/shirou/gopsutil/v3/mem"

	"understudy/internal/model"
)

// minGap is the shortest time between two measurements; asked sooner, the last one is given again. It bounds the cost, and a
// share of the cores means nothing over less: the kernel counts in hundredths of a second.
const minGap = 2 * time.Second

// Meter measures between its calls. Safe for concurrent use; the zero value is ready.
type Meter struct {
	mu    sync.Mutex
	at    time.Time
	last  model.HostLoad
	cores cpu.TimesStat
	disks map[string]diskCount
	net   netCount
	real  map[string]bool // network interface: is there a device behind it
}

// Measure never fails: what the kernel does not say is zero or as before, and pressure negative.
func (m *Meter) Measure(ctx context.Context) model.HostLoad {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	gap := now.Sub(m.at)
	if !m.at.IsZero() && gap < minGap {
		return m.last
	}
	first := m.at.IsZero()
	m.at = now
	m.measureCPU(ctx, first)
	if avg, err := load.AvgWithContext(ctx); err == nil {
		m.last.Load1 = avg.Load1
	}
	if v, err := mem.VirtualMemoryWithContext(ctx); err == nil && v.Total > 0 {
		m.last.Memory = 1 - float64(v.Available)/float64(v.Total)
	}
	m.last.PressureCPU, m.last.PressureMemory, m.last.PressureIO = pressure("cpu"), pressure("memory"), pressure("io")
	m.measureDisks(gap, first)
	m.measureNet(gap, first)
	return m.last
}

func (m *Meter) measureCPU(ctx context.Context, first bool) {
	times, err := cpu.TimesWithContext(ctx, false)
	if err != nil || len(times) == 0 {
		return
	}
	if !first {
		m.last.CPU = busyShare(m.cores, times[0], m.last.CPU)
	}
	m.cores = times[0]
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

// Forget makes the next Measure a fresh one.
func (m *Meter) Forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.at.IsZero() {
		m.at = m.at.Add(-minGap)
	}
}
