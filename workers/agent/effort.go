package agent

import (
	"time"

	"golang.org/x/sys/unix"
)

// effort divides the CPU time of this process between the transfers under way, evenly: nothing says which of its threads worked
// for whom. What the process does between transfers is nobody's.
type effort struct {
	used func() time.Duration // nil: of this process
	seen time.Duration
	busy map[*share]struct{}
}

// turn counts up to now, then lets t begin or end.
func (e *effort) turn(t *share, begins bool) {
	used := e.used
	if used == nil {
		used = processCPU
	}
	now := used()
	for b := range e.busy {
		b.cpu += max(now-e.seen, 0) / time.Duration(len(e.busy))
	}
	e.seen = now
	if !begins {
		delete(e.busy, t)
		return
	}
	if e.busy == nil {
		e.busy = map[*share]struct{}{}
	}
	e.busy[t] = struct{}{}
}

// processCPU is what this process used so far; 0 when the kernel does not say.
func processCPU() time.Duration {
	var r unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
