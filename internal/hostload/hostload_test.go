package hostload

import (
	"context"
	"testing"

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
	require.Positive(t, Cores(context.Background()))
	free, total, err := Disk(context.Background(), t.TempDir())
	require.NoError(t, err)
	require.LessOrEqual(t, free, total)
}
