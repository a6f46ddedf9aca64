package guard

import (
	"encoding/json"
	"os"
	"sync"

	"understudy/internal/model"
)

// Event is one line of the journal. Both clocks are in it: the first to join the journals of one boot, the second for people.
type Event struct {
	BootTime   model.BootTime   `json:"boottime_ns"`
	RealTime   int64            `json:"realtime_ns"`
	Event      string           `json:"event"` // start, stop, level, arm, forget, refuse, found, gone, freeze, thaw, kill, starve, error
	UUID       string           `json:"uuid,omitempty"`
	PID        int              `json:"pid,omitempty"`
	Started    model.BootTime   `json:"started_ns,omitempty"`
	Seen       model.BootTime   `json:"seen_ns,omitempty"` // of what is gone: it was there then
	Generation model.Generation `json:"generation,omitempty"`
	Mode       model.LeaseMode  `json:"mode,omitempty"`
	Deadline   model.BootTime   `json:"deadline_ns,omitempty"`
	Level      int              `json:"level,omitempty"`
	By         string           `json:"by,omitempty"` // cgroup or signal
	Proved     *bool            `json:"proved,omitempty"`
	TookNS     int64            `json:"took_ns,omitempty"` // from the order to the proof
	Why        string           `json:"why,omitempty"`
}

// maxJournal is the size at which the journal starts anew; one older file is kept.
const maxJournal = 16 << 20

// journal writes beside the guard's work, never in its way: a disk that hangs costs lines, not a freeze.
type journal struct {
	path  string
	queue chan Event
	done  chan struct{}
	once  sync.Once
}

func openJournal(path string) *journal {
	j := &journal{path: path, queue: make(chan Event, 1<<12), done: make(chan struct{})}
	go j.run()
	return j
}

func (j *journal) note(e Event) {
	if e.BootTime == 0 {
		e.BootTime = now()
	}
	e.RealTime = wallNanos() - int64(now().Sub(e.BootTime))
	select {
	case j.queue <- e:
	default: // the disk hangs
	}
}

// close writes what waits. Nothing may be noted after it.
func (j *journal) close() {
	j.once.Do(func() { close(j.queue) })
	<-j.done
}

func (j *journal) run() {
	defer close(j.done)
	var f *os.File
	for e := range j.queue {
		b, err := json.Marshal(e)
		if err != nil {
			continue
		}
		if f != nil {
			if st, err := f.Stat(); err == nil && st.Size() > maxJournal {
				_ = f.Close()
				f = nil
				_ = os.Rename(j.path, j.path+".1")
			}
		}
		if f == nil {
			if f, err = os.OpenFile(j.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600); err != nil {
				f = nil
				continue
			}
		}
		_, _ = f.Write(append(b, '\n'))
	}
	if f != nil {
		_ = f.Close()
	}
}
