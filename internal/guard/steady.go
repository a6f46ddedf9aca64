package guard

import (
	"bufio"
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// priority among real-time processes: above everything ordinary, below the kernel's own threads that a signal needs.
const priority = 10

// Steady makes the process hard to hold up: real-time scheduling, nothing of it swapped out or read from a disk again, last to
// be killed for memory. Each is tried; what the system refuses is returned and costs only promptness.
func Steady() error {
	return errors.Join(unswapped(), realTime(), os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0))
}

// realTime sets every thread; threads made later inherit it.
func realTime() error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: priority}
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		if err := unix.SchedSetAttr(tid, &attr, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

// unswapped locks the program itself as a whole, because its pages would come from a disk that may hang, and of memory what
// is ever touched: all of what Go reserves would be much.
func unswapped() error {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer f.Close()
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if !strings.HasSuffix(lines.Text(), " "+program) {
			continue
		}
		span, _, _ := strings.Cut(lines.Text(), " ")
		from, to, _ := strings.Cut(span, "-")
		start, err1 := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		if err1 != nil || err2 != nil || end <= start {
			continue
		}
		if _, _, e := unix.Syscall(unix.SYS_MLOCK, uintptr(start), uintptr(end-start), 0); e != 0 {
			return e
		}
	}
	return unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT)
}
