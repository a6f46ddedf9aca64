package guard

import (
	"sync"

	"golang.org/x/sys/unix"

	"understudy/internal/model"
)

// watchdog is the line below the guard: when nobody feeds it for T_wd, the kernel (softdog) or the board resets the host.
type watchdog struct {
	path     string
	fallback int // level of a device that does not tell its kind; 0: such a device is none

	mu  sync.Mutex
	fd  int // -1: not open
	lvl int
	why string
}

func newWatchdog(path string, fallback int) *watchdog {
	d := &watchdog{path: path, fallback: fallback, fd: -1, lvl: 1, why: "no watchdog: none is configured"}
	if path != "" {
		d.mu.Lock()
		d.open()
		d.mu.Unlock()
	}
	return d
}

// open arms it: a watchdog runs from its first opening on. It never blocks, also on a pipe whose reader is away.
func (d *watchdog) open() {
	var st unix.Stat_t
	err := unix.Stat(d.path, &st)
	flags := unix.O_WRONLY
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFIFO {
		flags = unix.O_RDWR
	}
	fd := -1
	if err == nil {
		fd, err = unix.Open(d.path, flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	}
	if err != nil {
		d.lvl, d.why = 1, "no watchdog: "+d.path+": "+err.Error()
		return
	}
	d.fd = fd
	d.lvl, d.why = kind(fd, d.fallback)
}

// kind asks the device. One that bites later than T_wd, or cannot say what it is, adds no level.
func kind(fd, fallback int) (int, string) {
	info, err := unix.IoctlGetWatchdogInfo(fd)
	if err != nil {
		if fallback > 1 {
			return fallback, ""
		}
		return 1, "the watchdog does not tell its kind: " + err.Error() + " (--watchdog-level says it)"
	}
	want := int(model.GuardWatchdog.Seconds())
	_ = unix.IoctlSetPointerInt(fd, unix.WDIOC_SETTIMEOUT, want)
	got, err := unix.IoctlGetInt(fd, unix.WDIOC_GETTIMEOUT)
	if err != nil || got > want {
		return 1, "the watchdog cannot be set to bite after " + model.GuardWatchdog.String()
	}
	name := string(info.Identity[:])
	if len(name) >= 8 && name[:8] == "Software" {
		return 2, ""
	}
	return 3, ""
}

// feed keeps it from biting, and opens one that was not there or failed.
func (d *watchdog) feed() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.path == "" {
		return
	}
	if d.fd < 0 {
		d.open()
		if d.fd < 0 {
			return
		}
	}
	if _, err := unix.Write(d.fd, []byte(".")); err != nil && err != unix.EAGAIN && err != unix.EINTR {
		_ = unix.Close(d.fd)
		d.fd, d.lvl, d.why = -1, 1, "the watchdog cannot be fed: "+err.Error()
	}
}

func (d *watchdog) level() (int, string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lvl, d.why
}

func (d *watchdog) name() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fd < 0 {
		return ""
	}
	return d.path
}

// close stops it if disarm says so; else it bites unless another guard opens it in time.
func (d *watchdog) close(disarm bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fd < 0 {
		return
	}
	if disarm {
		_, _ = unix.Write(d.fd, []byte("V"))
	}
	_ = unix.Close(d.fd)
	d.fd = -1
}
