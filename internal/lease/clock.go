package lease

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"understudy/internal/model"
)

// Clock is CLOCK_BOOTTIME: it goes on through suspend, and nobody can set it. Nothing in lease code reads another clock;
// Go's own monotonic time is CLOCK_MONOTONIC, which stands still while a host sleeps [C8].
type Clock interface {
	Now() model.BootTime
	// BootID is of this boot: an instant of another one means nothing.
	BootID() string
	// Wait returns when until has passed, or with ctx's error.
	Wait(ctx context.Context, until model.BootTime) error
}

type systemClock struct{ boot string }

// SystemClock is the kernel's.
func SystemClock() (Clock, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, model.Fail(model.Internal, err, "this kernel tells no boot id, so a lease could outlive a boot")
	}
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return nil, model.Fail(model.Internal, err, "this kernel has no CLOCK_BOOTTIME")
	}
	return systemClock{strings.TrimSpace(string(b))}, nil
}

func (systemClock) Now() model.BootTime {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // tried when it was made; it cannot fail later
	return model.BootTime(ts.Nano())
}

func (c systemClock) BootID() string { return c.boot }

func (c systemClock) Wait(ctx context.Context, until model.BootTime) error {
	if c.Now() >= until {
		return ctx.Err()
	}
	fd, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return model.Fail(model.Internal, err, "cannot make a timer")
	}
	f := os.NewFile(uintptr(fd), "timerfd") // non-blocking, so a read waits in Go's poller
	defer f.Close()
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(until))}
	if err := unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME, &spec, nil); err != nil {
		return model.Fail(model.Internal, err, "cannot set a timer")
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var expirations [8]byte
	if _, err := f.Read(expirations[:]); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return model.Fail(model.Internal, err, "a timer failed")
		}
	}
	return nil
}
