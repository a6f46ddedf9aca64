package hostload

import (
	"context"
	"testing"
	"time"

	"github.com/shirou/gopsutil/v3/cpu"
	"github.com/stretchr/testify/require"
)

func TestTheShareOfTheCoresStaysBetweenNothingAndAll(t *testing.T) {
	idle := cpu.TimesStat{Idle: 100}
	require.InDelta(t, 0.25, busyShare(idle, cpu.TimesStat{Idle: 175, User: 25}, 0), 1e-9)
	require.Zero(t, busyShare(idle, cpu.TimesStat{Idle: 110, Iowait: 5}, 0.7), "waiting for a disk is not work")
	require.Equal(t, 0.7, busyShare(idle, idle, 0.7), "no time passed")
}

func TestAHostCanBeMeasured(t *testing.T) {
	var m Meter
	l := m.Measure(context.Background())
	require.GreaterOrEqual(t, l.Load1, 0.0)
	require.Greater(t, l.Memory, 0.0)
	require.Less(t, l.Memory, 1.0)
	require.LessOrEqual(t, l.PressureIO, 1.0)
	require.Equal(t, l, m.Measure(context.Background()), "asked again at once it costs nothing")
	require.Positive(t, Cores(context.Background()))
	free, total, err := Disk(context.Background(), t.TempDir())
	require.NoError(t, err)
	require.LessOrEqual(t, free, total)
}

func TestPressureIsAShareOrUnknown(t *testing.T) {
	require.InDelta(t, 0.125, parsePressure("some avg10=12.50 avg60=1.00 avg300=0.00 total=12\nfull avg10=3.00 avg60=0.00 avg300=0.00 total=1\n"), 1e-9)
	require.Equal(t, -1.0, parsePressure(""))
	require.Equal(t, -1.0, parsePressure("some nonsense"))
}

func TestDisksAreCountedOnce(t *testing.T) {
	const before = `   8       0 sda 100 0 2000 50 10 0 400 20 0 100 70 0 0 0 0
   8       1 sda1 100 0 2000 50 10 0 400 20 0 100 70 0 0 0 0
 253       0 dm-0 100 0 2000 50 10 0 400 20 0 100 70 0 0 0 0
 259       0 nvme0n1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
   7       0 loop0 1 0 9 0 0 0 0 0 0 0 0 0 0 0 0
`
	a := parseDisks(before)
	require.Len(t, a, 2)
	require.False(t, partition("sdaa", "sda") || partition("nvme0n10", "nvme0n1") || partition("sda", ""))
	require.True(t, partition("nvme0n1p3", "nvme0n1"))
	b := map[string]diskCount{"sda": {a["sda"].bytes + 4096, a["sda"].busy + time.Second}, "nvme0n1": a["nvme0n1"], "sdb": {1 << 40, time.Hour}}
	busy, rate := diskUse(a, b, 2*time.Second)
	require.InDelta(t, 0.5, busy, 1e-9)
	require.InDelta(t, 2048, rate, 1e-9, "a disk that came meanwhile has no rate yet")
}

func TestTheNetworkIsWhatLeavesTheHost(t *testing.T) {
	const text = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 100 1 0 0 0 0 0 0 100 1 0 0 0 0 0 0
  eth0: 5 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0
 vnet3: 50 1 0 0 0 0 0 0 70 1 0 0 0 0 0 0
`
	all := parseNet(text)
	require.Len(t, all, 3)
	require.Equal(t, netCount{5, 7}, sumNet(all, func(n string) bool { return n == "eth0" }))
	require.Equal(t, netCount{55, 77}, sumNet(all, func(string) bool { return false }))
}

func BenchmarkMeasure(b *testing.B) {
	var m Meter
	for b.Loop() {
		m.at = m.at.Add(-time.Hour)
		m.Measure(context.Background())
	}
}
