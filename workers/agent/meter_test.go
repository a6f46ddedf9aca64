package agent

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"understudy/internal/model"
)

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// guest writes at known times; the meter sees only counters. What the guest knows is the truth that exposure is held against.
type guest struct {
	now     time.Time
	bytes   int64
	reqs    int64
	cpu     time.Duration
	safe    []time.Time // writes in no verified point, oldest first
	capture model.PointRef
	in      int // writes that are in the open capture
}

func (g *guest) counters() sample { return sample{At: g.now, Bytes: g.bytes, Reqs: g.reqs, CPU: g.cpu} }

func later(a, b *time.Time) bool { return a != nil && (b == nil || b.After(*a)) }

// Whatever happens to samples, captures and QEMU, exposure only falls by a verified point, and after a sample it is never
// smaller than the truth.
func TestExposureNeverFallsWithoutAVerifiedPoint(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var m meter
		g := &guest{now: t0, cpu: time.Hour} // longer than a new QEMU can have run in this test
		seq := model.Seq(0)
		m.feed(g.counters())
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			g.now = g.now.Add(time.Duration(rapid.IntRange(1, 5000).Draw(t, "ms")) * time.Millisecond)
			g.cpu += time.Millisecond
			before, mayFall := m.exposure(), false
			switch rapid.SampledFrom([]string{"write", "sample", "lost sample", "capture", "retake", "abandon", "verify", "restart", "agent restart"}).Draw(t, "what") {
			case "write":
				g.bytes += int64(rapid.IntRange(1, 1<<20).Draw(t, "bytes"))
				g.reqs++
				g.safe = append(g.safe, g.now)
				continue
			case "sample":
				m.feed(g.counters())
				if len(g.safe) > 0 {
					require.NotNil(t, m.exposure(), "writes are exposed and nothing is said")
					require.False(t, m.exposure().After(g.safe[0]), "exposure %s, first write %s", m.exposure(), g.safe[0])
				}
			case "lost sample":
			case "capture":
				if !g.capture.IsZero() {
					continue
				}
				seq++
				g.capture = model.PointRef{Generation: 1, Seq: seq}
				if rapid.Bool().Draw(t, "counters answer") {
					m.feed(g.counters())
				}
				m.capturing(g.capture, g.now)
				g.in = len(g.safe)
				m.captured(g.capture, g.now)
			case "retake": // the answer was lost, and the snapshot stage gives the open capture again
				if g.capture.IsZero() {
					continue
				}
				m.feed(g.counters())
				m.capturing(g.capture, g.now)
			case "abandon":
				m.abandoned(model.PointRef{Generation: 1, Seq: seq})
				g.capture, g.in = model.PointRef{}, 0
			case "verify":
				if g.capture.IsZero() {
					continue
				}
				m.verified(g.capture)
				g.safe, g.capture, g.in, mayFall = g.safe[g.in:], model.PointRef{}, 0, true
			case "restart": // QEMU: the counters begin again
				if g.cpu < time.Minute { // too young to be told by its CPU time: libvirt's event does it
					m.missing()
				}
				g.bytes, g.reqs, g.cpu = 0, 0, 1
			case "agent restart": // only what was saved is left
				m = m.copy()
				m.rate, m.gap = 0, 0
			}
			if !mayFall && before != nil {
				require.False(t, later(before, m.exposure()), "exposure fell from %v to %v", before, m.exposure())
			}
		}
	})
}

func TestTheRateIsNeverAboveWhatWasWrittenInTheGap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var m meter
		g := &guest{now: t0, cpu: time.Hour}
		m.feed(g.counters())
		for range 20 {
			gap := time.Duration(rapid.IntRange(-2000, 20000).Draw(t, "gap_ms")) * time.Millisecond
			last, lastRate := *m.Last, m.rate
			g.now = last.At.Add(gap)
			g.cpu += time.Millisecond
			wrote := int64(rapid.IntRange(0, 1<<30).Draw(t, "bytes"))
			if rapid.Bool().Draw(t, "restart") {
				g.bytes, g.cpu = 0, 1
			}
			g.bytes += wrote
			m.feed(g.counters())
			if gap <= 0 {
				require.Equal(t, lastRate, m.rate, "a gap of unknown length tells no rate")
				continue
			}
			require.LessOrEqual(t, m.rate, float64(wrote)/gap.Seconds()+1e-6)
		}
	})
}

func TestARestartedQEMUCountsFromZeroAndHidesNothing(t *testing.T) {
	var m meter
	m.feed(sample{At: t0, Bytes: 5000, Reqs: 5, CPU: time.Minute})
	p := model.PointRef{Generation: 1, Seq: 1}
	m.capturing(p, t0)
	m.verified(p)
	require.Nil(t, m.exposure())
	first := m.feed(sample{At: t0.Add(time.Second), Bytes: 9000, Reqs: 9, CPU: time.Second})
	require.True(t, first, "CPU time fell: it is another QEMU, although it wrote more than the old one")
	require.EqualValues(t, 9000, m.Since.Bytes)
	require.Equal(t, t0, *m.exposure(), "what the old QEMU wrote after the last sample was not seen")
}

func TestAnOlderCaptureThatIsFoundOpenCountsForNothing(t *testing.T) {
	var m meter
	m.feed(sample{At: t0, Bytes: 1})
	m.feed(sample{At: t0.Add(10 * time.Second), Bytes: 100})
	p := model.PointRef{Generation: 1, Seq: 4}
	m.capturing(p, t0)
	m.captured(p, t0.Add(5*time.Second))
	m.verified(p)
	require.NotNil(t, m.exposure(), "it was taken before the counters were moved")
}

func TestAVMThatStoppedMayHaveWrittenUnseen(t *testing.T) {
	var m meter
	m.feed(sample{At: t0, CPU: time.Second})
	require.Nil(t, m.exposure())
	require.True(t, m.missing())
	require.Equal(t, t0, *m.exposure())
	require.False(t, m.missing())
}

func TestAnotherQEMUIsToldByItsNumberWithoutCPUTime(t *testing.T) {
	var m meter
	m.feed(sample{At: t0, Bytes: 5000, Reqs: 5, CPU: time.Minute, Run: 3})
	m.capturing(model.PointRef{Generation: 1, Seq: 1}, t0)
	m.verified(model.PointRef{Generation: 1, Seq: 1})
	require.False(t, m.feed(sample{At: t0.Add(time.Second), Bytes: 5000, Reqs: 5, Run: 3}))
	require.True(t, m.feed(sample{At: t0.Add(2 * time.Second), Bytes: 9000, Reqs: 9, Run: 4}))
	require.EqualValues(t, 9000, m.Since.Bytes, "all of the new one's")
	require.False(t, m.feed(sample{At: t0.Add(32 * time.Second), Bytes: 9000, Reqs: 9, CPU: time.Minute + 15*time.Second, Run: 4}))
}
