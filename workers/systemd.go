package workers

import (
	"context"
	"net"
	"os"
	"strconv"
	"time"
)

// readyAnyway is when systemd is told that a process is up although it still waits for others: a start must not hang because
// another machine is down, least of all the upgrade of a package.
const readyAnyway = 30 * time.Second

// TellSystemd speaks the protocol of Type=notify until ctx ends: READY when ready says so, and a sign of life for WatchdogSec,
// which ends a process whose scheduler hangs. Without systemd it returns at once.
func TellSystemd(ctx context.Context, ready func() bool) {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return
	}
	tell := func(state string) {
		c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
		if err != nil {
			return // systemd gives up on us by itself
		}
		_, _ = c.Write([]byte(state))
		_ = c.Close()
	}
	began, told := time.Now(), false
	life := watchdogPeriod(os.Getenv("WATCHDOG_USEC"))
	var lived time.Time
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for {
		if !told && (ready() || time.Since(began) > readyAnyway) {
			tell("READY=1")
			told = true
			if life == 0 {
				return
			}
			look.Reset(life)
		}
		if life > 0 && time.Since(lived) >= life/2 {
			tell("WATCHDOG=1")
			lived = time.Now()
		}
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
	}
}

// watchdogPeriod is a third of what systemd allows; 0 when it watches nothing.
func watchdogPeriod(usec string) time.Duration {
	n, err := strconv.ParseInt(usec, 10, 64)
	if err != nil || n <= 0 {
		return 0
	}
	return time.Duration(n) * time.Microsecond / 3
}
