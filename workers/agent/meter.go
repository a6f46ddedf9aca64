package agent

import (
	"time"

	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

// sample is what the counters of a VM said. At is the instant before they were asked for: never later than what they tell.
type sample struct {
	At    time.Time     `json:"at"`
	Bytes int64         `json:"bytes"`
	Reqs  int64         `json:"reqs"`
	CPU   time.Duration `json:"cpu_ns"` // as of the last time it was asked for
	Run   int64         `json:"run,omitempty"`
}

func sampleOf(s hypervisor.Stats, at time.Time) sample {
	return sample{At: at, Bytes: s.WriteBytes, Reqs: s.WriteReqs, CPU: s.CPUTime, Run: s.Run}
}

// restarted says that the counters began again: QEMU is another process. Its number also shows when the new process wrote more
// than the old one; after a reboot of the host the number may be the same, and CPU time shows it, which always grows.
func (s sample) restarted(before sample) bool {
	return s.Run != before.Run && s.Run != 0 && before.Run != 0 || s.Bytes < before.Bytes || s.Reqs < before.Reqs || s.CPU < before.CPU
}

// tally counts writes; Oldest is the time of the first of them or, as counters do not tell, one sample earlier.
type tally struct {
	Bytes  int64      `json:"bytes"`
	Reqs   int64      `json:"reqs"`
	Oldest *time.Time `json:"oldest,omitempty"`
}

// join adds other's writes; the older of both oldest writes stays.
func (t tally) join(other tally) tally {
	t.Bytes += other.Bytes
	t.Reqs += other.Reqs
	t.Oldest = earlier(t.Oldest, other.Oldest)
	return t
}

func earlier(a, b *time.Time) *time.Time {
	switch {
	case a == nil:
		return b
	case b == nil || a.Before(*b):
		return a
	}
	return b
}

// capture is a capture that is not verified yet, with the writes in it.
type capture struct {
	Point model.PointRef `json:"point"`
	Began time.Time      `json:"began"` // of the sample at its base
	Tally tally          `json:"tally"`
}

// meter is the account of one VM's writes. Its law: exposure moves to a later time only by verified. Everything uncertain
// (a lost sample, a QEMU that began again, a capture of unknown outcome) counts as written and not captured.
type meter struct {
	Last  *sample   `json:"last,omitempty"`
	Since tally     `json:"since"` // after the newest capture
	Open  []capture `json:"open"`  // oldest first

	rate    float64 // bytes/s over the last gap
	cpu     float64 // cores in use, between the last two times it was asked for
	cpuAt   time.Time
	gap     time.Duration
	quietAt time.Time // nothing was written from Last until then
	// total counts all that was seen to be written, for who compares two moments.
	total int64
}

// missing says that the VM has no counters: its QEMU ended, and what it wrote since the last sample was not seen.
func (m *meter) missing() (first bool) {
	m.rate, m.cpu = 0, 0
	if m.Last == nil {
		return false
	}
	return m.wrote(0, 0, m.Last.At)
}

// quiet takes in that nothing was written until then, which is known without a sample.
func (m *meter) quiet(at time.Time) {
	if m.Last != nil && at.After(m.Last.At) {
		m.rate, m.quietAt = 0, at
	}
}

// doubt takes that back.
func (m *meter) doubt() { m.quietAt = time.Time{} }

// feed takes a sample in and says whether it is the one that shows the first write since the last capture.
func (m *meter) feed(s sample) (first bool) {
	if m.Last == nil {
		m.Last = &s
		if s.Bytes > 0 || s.Reqs > 0 {
			return m.wrote(s.Bytes, s.Reqs, s.At)
		}
		return false
	}
	last := *m.Last
	if s.At.Before(last.At) {
		s.At = last.At // the clock was set back: the gap is unknown and the rate stays
	}
	m.core(&s, last)
	m.Last = &s
	bytes, reqs := s.Bytes-last.Bytes, s.Reqs-last.Reqs
	again := s.restarted(last)
	if again {
		bytes, reqs = s.Bytes, s.Reqs
	}
	from := last.At
	if m.quietAt.After(from) && !m.quietAt.After(s.At) {
		from = m.quietAt
	}
	m.quietAt = time.Time{}
	if gap := s.At.Sub(from); gap > 0 {
		m.rate, m.gap = float64(bytes)/gap.Seconds(), gap
		m.total += bytes
	}
	if bytes > 0 || reqs > 0 || again {
		return m.wrote(bytes, reqs, from)
	}
	return false
}

// core takes in the CPU time, or keeps what was asked for before.
func (m *meter) core(s *sample, last sample) {
	if s.CPU == 0 {
		s.CPU = last.CPU
		return
	}
	if gap := s.At.Sub(m.cpuAt); !m.cpuAt.IsZero() && gap > 0 {
		m.cpu = max(float64(s.CPU-last.CPU)/float64(gap), 0)
	}
	m.cpuAt = s.At
}

func (m *meter) wrote(bytes, reqs int64, from time.Time) (first bool) {
	first = m.Since.Oldest == nil
	m.Since = m.Since.join(tally{Bytes: bytes, Reqs: reqs, Oldest: &from})
	return first
}

// capturing puts what was counted into the capture of a point. The same point again changes nothing: its first attempt may
// have succeeded. Other open captures are given back first; their writes are in the new one.
func (m *meter) capturing(p model.PointRef, now time.Time) {
	for _, c := range m.Open {
		if c.Point == p {
			return
		}
	}
	for _, c := range m.Open {
		m.Since = m.Since.join(c.Tally)
	}
	began := now
	if m.Last != nil {
		began = m.Last.At
	}
	m.Open = []capture{{Point: p, Began: began, Tally: m.Since}}
	m.Since = tally{}
}

// captured gives the oldest write in the capture. One that turns out to be older than its base (found open from before)
// misses later writes, so it is given back.
func (m *meter) captured(p model.PointRef, takenAt time.Time) *time.Time {
	for _, c := range m.Open {
		if c.Point != p {
			continue
		}
		if takenAt.Before(c.Began) {
			m.abandoned(p)
		}
		return c.Tally.Oldest
	}
	return m.Since.Oldest
}

func (m *meter) abandoned(p model.PointRef) {
	for i, c := range m.Open {
		if c.Point == p {
			m.Since = m.Since.join(c.Tally)
			m.Open = append(m.Open[:i:i], m.Open[i+1:]...)
			return
		}
	}
}

// verified forgets the captures up to a committed point; a seq is never used again.
func (m *meter) verified(p model.PointRef) {
	if p.IsZero() {
		return
	}
	var keep []capture
	for _, c := range m.Open {
		if c.Point.Seq > p.Seq {
			keep = append(keep, c)
		}
	}
	m.Open = keep
}

// exposure is the oldest write that is in no verified point; nil when there is none.
func (m *meter) exposure() *time.Time {
	oldest := m.Since.Oldest
	for _, c := range m.Open {
		oldest = earlier(oldest, c.Tally.Oldest)
	}
	return oldest
}

// copy is safe to write to a file while the meter goes on.
func (m *meter) copy() meter {
	c := *m
	c.Open = append([]capture{}, m.Open...)
	if m.Last != nil {
		last := *m.Last
		c.Last = &last
	}
	return c
}
