package agent

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

// A question for counters costs libvirtd half a millisecond and QEMU twice as much; to read what the kernel counts of a
// process costs a fiftieth of it. Where all disks of a VM are images that QEMU opened with O_DIRECT, each of its writes is in
// write_bytes of /proc/PID/io when it is made, by threads, Linux AIO and io_uring alike (docs/PERFORMANCE.md has what was tried):
// while that number stands still, nobody has to be asked. Not so with the host's page cache, where a page that is written
// again before it went to the disk is not counted. What the kernel does not count is zeroes that the guest did not flush yet; a
// question that finds such a write dates it by the question before, and from then on this QEMU is asked as if there were no
// such number.
const (
	procRoot = "/proc"
	// Without a question a VM goes for a quarter of its RPO; longer when there are many, up to half.
	stillLeast = 4
	stillMost  = 2
	// To look at one VM costs the agent half of this; the other half is for what else a round costs it.
	lookCost = 100 * time.Microsecond
)

// still is what is known of one VM's QEMU; only whoever samples uses it.
type still struct {
	run     int64 // of the QEMU that it is about
	io      *os.File
	mark    int64 // write_bytes right before the last question
	marked  bool
	asked   time.Time
	doubted bool
}

func (s *still) close() {
	if s.io != nil {
		s.io.Close()
		s.io = nil
	}
}

// written reads the kernel's number. The file is of that process: it fails when the process is gone, whoever has its number now.
func (s *still) written() (int64, bool) {
	if s.io == nil {
		return 0, false
	}
	var buf [512]byte
	n, _ := s.io.ReadAt(buf[:], 0)
	for line := range bytes.Lines(buf[:n]) {
		if v, ok := bytes.CutPrefix(line, []byte("write_bytes: ")); ok {
			w, err := strconv.ParseInt(string(bytes.TrimSpace(v)), 10, 64)
			return w, err == nil
		}
	}
	return 0, false
}

// round is one round of questions: who is asked, who need not be, and what the kernel said right before.
type round struct {
	quiet map[string]bool
	marks map[string]mark
}

type mark struct {
	written int64
	known   bool
	moved   bool // since the last question, or nobody can tell
}

// part takes those out of the question who wrote nothing since they were asked last. all asks everybody, for what else is wanted.
func (w *watcher) part(q *hypervisor.StatsQuery, all bool, at time.Time) round {
	r := round{quiet: map[string]bool{}, marks: map[string]mark{}}
	var ask []string
	for _, uuid := range q.Only {
		s := w.stills[uuid]
		if s == nil {
			ask = append(ask, uuid)
			continue
		}
		m := mark{moved: true}
		if m.written, m.known = s.written(); m.known && s.marked {
			m.moved = m.written != s.mark
		}
		if !all && !m.moved && !s.doubted && at.Sub(s.asked) < w.longest(uuid) {
			r.quiet[uuid] = true
			continue
		}
		r.marks[uuid] = m
		ask = append(ask, uuid)
	}
	q.Only = ask
	return r
}

// longest is how long a VM may go without a question.
func (w *watcher) longest(uuid string) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.vms[uuid]
	if e == nil || e.RPO <= 0 {
		return 0
	}
	afford := time.Duration(float64(len(w.vms)) * float64(unitCost) / costShare)
	return min(max(afford, e.RPO/stillLeast), e.RPO/stillMost, cpuEvery)
}

// answered takes in that a VM was asked. A write that the kernel did not count makes it doubt the kernel; doubt is asked before
// the sample is fed.
func (w *watcher) answered(uuid string, run int64, m mark, at time.Time) {
	s := w.stills[uuid]
	if s == nil {
		s = &still{}
		w.stills[uuid] = s
	}
	if s.run != run {
		s.close()
		*s = still{run: run}
	}
	s.mark, s.marked, s.asked = m.written, m.known, at
}

// relook finds the QEMUs of which the kernel's number can be trusted: of those that were asked, as libvirt knows their disks now.
func (w *watcher) relook(ctx context.Context, asked []string) {
	if w.proc == "" {
		return
	}
	for _, uuid := range asked {
		s := w.stills[uuid]
		if s == nil {
			continue
		}
		d, err := w.hv.Domain(ctx, uuid)
		if err != nil || !d.State.Active() || !w.counted(d) {
			s.close()
			s.marked = false
			continue
		}
		if s.io == nil {
			s.io = openIO(w.proc, uuid)
		}
	}
}

// counted says that the kernel counts each write to the VM's disks.
func (w *watcher) counted(d hypervisor.Domain) bool {
	disks := 0
	for _, k := range d.Disks {
		switch {
		case k.ReadOnly:
		case k.Problem != "" || !k.Direct || k.Format != model.FormatQCOW2 || !w.local(k.Path):
			return false
		default:
			disks++
		}
	}
	return disks > 0
}

// local says that a file lies on a file system whose direct writes go to the block layer in the name of who writes.
func local(path string) bool {
	var st unix.Statfs_t
	if unix.Statfs(path, &st) != nil {
		return false
	}
	return st.Type == unix.EXT4_SUPER_MAGIC || st.Type == unix.XFS_SUPER_MAGIC
}

// openIO finds the QEMU of a VM by its command line; nil when there is none, or more than one.
func openIO(proc, uuid string) *os.File {
	dirs, err := os.ReadDir(proc)
	if err != nil {
		return nil
	}
	var found *os.File
	for _, d := range dirs {
		if _, err := strconv.Atoi(d.Name()); err != nil || !d.IsDir() {
			continue
		}
		line, err := os.ReadFile(filepath.Join(proc, d.Name(), "cmdline"))
		if err != nil || !bytes.Contains(line, []byte("\x00-uuid\x00"+uuid+"\x00")) {
			continue
		}
		if found != nil {
			found.Close()
			return nil
		}
		if found, err = os.Open(filepath.Join(proc, d.Name(), "io")); err != nil {
			return nil
		}
	}
	return found
}
