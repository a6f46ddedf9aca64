package workers

import (
	"context"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSystemdIsToldWhenAProcessServesAndThatItLives(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "300000")
	var serves atomic.Bool
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); TellSystemd(ctx, serves.Load) }()
	heard := func() string {
		require.NoError(t, l.SetReadDeadline(time.Now().Add(10*time.Second)))
		b := make([]byte, 100)
		n, err := l.Read(b)
		require.NoError(t, err)
		return string(b[:n])
	}
	require.Equal(t, "WATCHDOG=1", heard(), "it lives while it waits for others")
	serves.Store(true)
	for heard() != "READY=1" {
	}
	require.Equal(t, "WATCHDOG=1", heard())
	require.Equal(t, "WATCHDOG=1", heard())
	cancel()
	<-done
}
