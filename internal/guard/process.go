package guard

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"understudy/internal/model"
)

// tick is the unit of start times in /proc: USER_HZ is 100 on every Linux that libvirt and QEMU run on.
const tick = 10 * time.Millisecond

// process is one QEMU by what makes it unique in a boot.
type process struct {
	UUID    string
	PID     int
	Started model.BootTime // to the tick, rounded down
}

// procfs reads processes. Its root is a parameter for tests only.
type procfs struct{ root string }

// scan finds every process that was started with `-uuid UUID` of a wanted UUID: never by name, because anybody may start a
// QEMU under any name, and libvirt always gives the UUID.
func (p procfs) scan(wanted func(uuid string) bool) ([]process, error) {
	dir, err := os.Open(p.root)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var found []process
	self := os.Getpid()
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == self {
			continue
		}
		if q, ok := p.identify(pid); ok && wanted(q.UUID) {
			found = append(found, q)
		}
	}
	return found, nil
}

// identify tells the UUID and the start of a process; false when it is no QEMU with a UUID, or no longer alive.
func (p procfs) identify(pid int) (process, bool) {
	dir := filepath.Join(p.root, strconv.Itoa(pid))
	line, err := readBounded(filepath.Join(dir, "cmdline"), 1<<20)
	if err != nil {
		return process{}, false
	}
	uuid := uuidOf(line)
	if uuid == "" {
		return process{}, false
	}
	st, err := p.stat(filepath.Join(dir, "stat"))
	if err != nil || st.dead() {
		return process{}, false
	}
	return process{uuid, pid, st.started}, true
}

// uuidOf finds QEMU's -uuid among the arguments; empty when there is none.
func uuidOf(cmdline []byte) string {
	args := bytes.Split(cmdline, []byte{0})
	for i, a := range args {
		if s := string(a); (s == "-uuid" || s == "--uuid") && i+1 < len(args) {
			if u, err := canonical(string(args[i+1])); err == nil {
				return u
			}
		}
	}
	return ""
}

// status is what matters of a stat file.
type status struct {
	name    string
	state   byte
	started model.BootTime
}

func (s status) dead() bool    { return s.state == 'Z' || s.state == 'X' || s.state == 'x' }
func (s status) stopped() bool { return s.state == 'T' || s.state == 't' }

// vcpu says that the thread executes guest code: libvirt always asks QEMU to name its threads.
func (s status) vcpu() bool { return strings.HasPrefix(s.name, "CPU ") }

func (p procfs) stat(path string) (status, error) {
	b, err := readBounded(path, 4096)
	if err != nil {
		return status{}, err
	}
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')') // a name may hold anything, also parentheses
	if open < 0 || end < open {
		return status{}, errors.New("a stat file without a name")
	}
	rest := strings.Fields(string(b[end+1:]))
	if len(rest) < 20 || len(rest[0]) != 1 {
		return status{}, errors.New("a stat file without a start time")
	}
	ticks, err := strconv.ParseInt(rest[19], 10, 64)
	if err != nil {
		return status{}, err
	}
	return status{string(b[open+1 : end]), rest[0][0], model.BootTime(ticks) * model.BootTime(tick)}, nil
}

// threads reads the state of every thread. One that ends meanwhile is left out; a process without threads is gone.
func (p procfs) threads(pid int) ([]status, error) {
	dir := filepath.Join(p.root, strconv.Itoa(pid), "task")
	list, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			return nil, nil
		}
		return nil, err
	}
	var out []status
	for _, t := range list {
		st, err := p.stat(filepath.Join(dir, t.Name(), "stat"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if !st.dead() {
			out = append(out, st)
		}
	}
	return out, nil
}

// stopped proves that no thread executes guest code: each is in state T. A thread that hangs in the kernel (D) passes where
// it is known to be no vCPU: its stop waits for it at the way back. A disk that hangs must not turn a pause into a kill.
func stopped(threads []status) bool {
	named := false
	for _, t := range threads {
		named = named || t.vcpu()
	}
	for _, t := range threads {
		if !t.stopped() && (t.state != 'D' || !named || t.vcpu()) {
			return false
		}
	}
	return true
}

// pidfd opens the very process: the start is compared after the opening, so a pid that was used again is never hit.
func (p procfs) pidfd(q process) (int, error) {
	fd, err := unix.PidfdOpen(q.PID, 0)
	if err != nil {
		return -1, err
	}
	if is, ok := p.identify(q.PID); !ok || is != q {
		_ = unix.Close(fd)
		return -1, unix.ESRCH
	}
	return fd, nil
}

// gone says that the process behind a pidfd has ended.
func gone(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&(unix.POLLIN|unix.POLLHUP) != 0
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}
