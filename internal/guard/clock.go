package guard

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"understudy/internal/model"
)

// now is CLOCK_BOOTTIME, the only clock that a deadline is compared with: it goes on through suspend, and nobody sets it.
func now() model.BootTime {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // tried by bootID's caller; it cannot fail later
	return model.BootTime(ts.Nano())
}

// wallNanos is for people who read the journal, and for nothing else.
func wallNanos() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_REALTIME, &ts)
	return ts.Nano()
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", model.Fail(model.Internal, err, "this kernel tells no boot id, so a deadline could outlive a boot")
	}
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return "", model.Fail(model.Internal, err, "this kernel has no CLOCK_BOOTTIME")
	}
	return strings.TrimSpace(string(b)), nil
}

// alarm wakes its one waiter at an instant, or earlier when it is rung. The waiter sits in the kernel with a thread of its
// own, so that nothing of Go's scheduler but one wake-up lies between the instant and the signal to a QEMU.
type alarm struct{ timer, bell int }

func newAlarm() (*alarm, error) {
	timer, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, model.Fail(model.Internal, err, "cannot make a timer on CLOCK_BOOTTIME")
	}
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(timer)
		return nil, model.Fail(model.Internal, err, "cannot make an eventfd")
	}
	return &alarm{timer, bell}, nil
}

func (a *alarm) ring() {
	_, _ = unix.Write(a.bell, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // full means that it rings already
}

func (a *alarm) wait(until model.BootTime) error {
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(max(int64(until), 1))}
	if err := unix.TimerfdSettime(a.timer, unix.TFD_TIMER_ABSTIME, &spec, nil); err != nil {
		return model.Fail(model.Internal, err, "cannot set the timer")
	}
	fds := []unix.PollFd{{Fd: int32(a.timer), Events: unix.POLLIN}, {Fd: int32(a.bell), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); err == nil {
			break
		} else if !errors.Is(err, unix.EINTR) {
			return model.Fail(model.Internal, err, "cannot wait for the timer")
		}
	}
	var count [8]byte
	_, _ = unix.Read(a.timer, count[:])
	_, _ = unix.Read(a.bell, count[:])
	return nil
}

func (a *alarm) close() {
	_ = unix.Close(a.timer)
	_ = unix.Close(a.bell)
}
