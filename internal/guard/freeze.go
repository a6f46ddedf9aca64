package guard

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"understudy/internal/model"
)

// frozen is a process that we stopped and how; kept in the record, because only what we stopped is ours to let go on.
type frozen struct {
	PID     int            `json:"pid"`
	Started model.BootTime `json:"started"`
	Cgroup  string         `json:"cgroup,omitempty"` // empty: by signal
}

// hand carries out orders on one process and proves them.
type hand struct {
	proc        procfs
	freezeProof time.Duration
	killProof   time.Duration
}

// pause between two looks for a proof.
const look = 2 * time.Millisecond

func (h hand) until(limit time.Duration, done func() bool) bool {
	for end := now().Add(limit); ; {
		if done() {
			return true
		}
		if now() >= end {
			return false
		}
		nap()
	}
}

func nap() {
	ts := unix.NsecToTimespec(int64(look))
	_ = unix.ClockNanosleep(unix.CLOCK_BOOTTIME, 0, &ts, nil)
}

// way says how a process is to be stopped: by the freezer of its own scope when it has one, else by SIGSTOP.
func (h hand) way(p process) frozen {
	return frozen{PID: p.PID, Started: p.Started, Cgroup: h.scope(p.PID)}
}

// freeze stops a process and says whether every thread is proved to stand still; a process that is gone is proof enough. The
// order is repeated until then: somebody else may let it go on in between.
func (h hand) freeze(f frozen, fd int) (bool, error) {
	order := func() error {
		if f.Cgroup != "" {
			return os.WriteFile(filepath.Join(f.Cgroup, "cgroup.freeze"), []byte("1"), 0)
		}
		if err := unix.PidfdSendSignal(fd, unix.SIGSTOP, nil, 0); !errors.Is(err, unix.ESRCH) {
			return err
		}
		return nil
	}
	if err := order(); err != nil {
		return false, err
	}
	return h.until(h.freezeProof, func() bool {
		if h.isFrozen(f, fd) {
			return true
		}
		_ = order()
		return false
	}), nil
}

func (h hand) isFrozen(f frozen, fd int) bool {
	if gone(fd) {
		return true
	}
	if f.Cgroup != "" {
		b, err := readBounded(filepath.Join(f.Cgroup, "cgroup.events"), 4096)
		return err == nil && bytes.Contains(b, []byte("frozen 1")) && h.scope(f.PID) == f.Cgroup
	}
	threads, err := h.proc.threads(f.PID)
	return err == nil && stopped(threads)
}

func (h hand) thaw(f frozen, fd int) error {
	if f.Cgroup != "" {
		return os.WriteFile(filepath.Join(f.Cgroup, "cgroup.freeze"), []byte("0"), 0)
	}
	return unix.PidfdSendSignal(fd, unix.SIGCONT, nil, 0)
}

// kill ends a process. Proof is its end, or that no vCPU thread is left: one that hangs in the kernel for a dead disk keeps
// the process, but no longer runs the guest.
func (h hand) kill(p process, fd int) bool {
	vcpus := false
	if threads, err := h.proc.threads(p.PID); err == nil {
		for _, t := range threads {
			vcpus = vcpus || t.vcpu()
		}
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); errors.Is(err, unix.ESRCH) {
		return true
	}
	return h.until(h.killProof, func() bool {
		if gone(fd) {
			return true
		}
		threads, err := h.proc.threads(p.PID)
		if err != nil || !vcpus {
			return false
		}
		for _, t := range threads {
			if t.vcpu() {
				return false
			}
		}
		return true
	})
}

// scope is the cgroup (v2) that belongs to this VM alone, as systemd's machined makes one; empty when there is none. A
// session's or a service's scope is not: something else would freeze with it.
func (h hand) scope(pid int) string {
	b, err := readBounded(filepath.Join(h.proc.root, pidText(pid), "cgroup"), 1<<16)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !ok {
			continue
		}
		for ; path != "/" && path != "." && path != ""; path = filepath.Dir(path) {
			base := filepath.Base(path)
			if strings.HasPrefix(base, "machine-") && strings.HasSuffix(base, ".scope") {
				return h.freezer(path)
			}
		}
	}
	return ""
}

// freezer is the folder of a cgroup where it can be frozen; empty when cgroup v2 is not mounted here.
func (h hand) freezer(path string) string {
	b, err := readBounded(filepath.Join(h.proc.root, "self", "mountinfo"), 1<<20)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		for i, word := range f {
			if word != "-" || i+1 >= len(f) || i < 5 || f[i+1] != "cgroup2" {
				continue
			}
			rel, err := filepath.Rel(f[3], path) // the mount may show a part of the tree
			if err != nil || strings.HasPrefix(rel, "..") {
				continue
			}
			dir := filepath.Join(f[4], rel)
			if _, err := os.Stat(filepath.Join(dir, "cgroup.freeze")); err == nil {
				return dir
			}
		}
	}
	return ""
}
