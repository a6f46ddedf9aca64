package simulate

import (
	"bytes"
	"compress/gzip"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"understudy/internal/model"
)

func trace(t require.TestingT, writes ...Write) *Trace {
	tr, err := NewTrace("made", 100, 1, writes)
	require.NoError(t, err)
	return tr
}

func bed(t require.TestingT, tr *Trace, rpo time.Duration, capacity float64) *Bed {
	return NewBed(tr, Setup{RPO: rpo, Link: capacity, Seed: 1})
}

// The index counts what a plain set of blocks would count.
func TestUniqueBlocksOfAnyWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var writes []Write
		at := 0.0
		for range rapid.IntRange(0, 60).Draw(t, "writes") {
			at = min(at+rapid.Float64Range(0, 3).Draw(t, "gap"), 100)
			writes = append(writes, Write{at, rapid.Uint64Range(0, 80).Draw(t, "first"), rapid.Uint32Range(0, 20).Draw(t, "blocks")})
		}
		tr := trace(t, writes...)
		from := rapid.IntRange(0, tr.ticks()).Draw(t, "from")
		to := rapid.IntRange(from, tr.ticks()).Draw(t, "to")
		w := window{from: from, upTo: from}
		for at := from; at < to; at += rapid.IntRange(1, 500).Draw(t, "step") {
			tr.advance(&w, at)
		}
		tr.advance(&w, to)
		blocks, clusters, total := map[uint64]bool{}, map[uint64]bool{}, 0
		for _, x := range writes {
			if tick := int(x.Time / Tick); tick < from || tick >= to {
				continue
			}
			for b := x.First; b < x.First+uint64(x.Blocks); b++ {
				blocks[b], clusters[b/perCluster] = true, true
				total++
			}
		}
		require.Equal(t, []int{total, len(blocks), len(clusters)}, []int{w.w, w.b, w.q})
	})
}

func TestAnIdleVMCostsNoCycle(t *testing.T) {
	r := bed(t, trace(t), 10*time.Second, 1e6).Run(&Adaptive{})
	require.Zero(t, r.Cycles)
	require.Zero(t, r.Bytes)
	require.Zero(t, r.Max)
}

func TestOneWriteIsReplicatedOnceAndInTime(t *testing.T) {
	r := bed(t, trace(t, Write{20, 7, 1}), 10*time.Second, 1e6).Run(&Adaptive{})
	require.Equal(t, 1, r.Cycles)
	require.Zero(t, r.Violations)
	require.Greater(t, r.Max, 5.0, "the slack is used")
	require.Equal(t, float64(Block), r.Dirty4K)
	require.Equal(t, float64(Cluster), r.Dirty64K)
}

func TestExposureIsMeasuredFromTheWriteToTheVerifiedPoint(t *testing.T) {
	m := newMeter(10)
	m.verified(5, 20, outcome{})           // 15 s old when it was verified: 5 s late
	m.verified(18, 26, outcome{})          // written during the cycle before
	m.verified(math.Inf(1), 40, outcome{}) // nothing
	var r Result
	m.fill(&r)
	require.Equal(t, 15.0, r.Max)
	require.InDelta(t, 5, r.Late, 1e-9)
	require.Equal(t, 1, r.Violations)
	require.InDelta(t, 19, m.none, 1e-9)
}

// A replicate that fails in mid-window gives its oldest write back: the exposure goes on rising until a later one is verified.
func TestAFailedAttemptGivesItsOldestWriteBack(t *testing.T) {
	for _, p := range []Planner{&Adaptive{}, &Fixed{T: 5 * time.Second, Skip: true}, &LastDurations{}, &TwoGear{}} {
		b := bed(t, trace(t, Write{1, 0, 512}), 10*time.Second, 1e6)
		b.setup.KeepTrail = true
		clean := b.Run(p)
		require.Len(t, clean.Trail, 1, p.Name())
		start := clean.Trail[0].Instant
		b.fail = []float64{start + 1}
		r := b.Run(p)
		require.GreaterOrEqual(t, r.Failed, 1, p.Name())
		require.Len(t, r.Trail, 1)
		require.Equal(t, 1.0, r.Trail[0].Oldest)
		require.Greater(t, r.Max, clean.Max)
		require.InDelta(t, r.Trail[0].Verified-1, r.Max, 1e-9)
	}
}

func TestASimulationIsRepeatable(t *testing.T) {
	s, _ := Find("desktop")
	tr, err := s.Trace(20*time.Minute, 7)
	require.NoError(t, err)
	again, err := s.Trace(20*time.Minute, 7)
	require.NoError(t, err)
	require.Equal(t, tr, again)
	b := NewBed(tr, Setup{RPO: 5 * time.Second, Link: 2e6, Cross: [2]float64{0.1, 0.5}, Seed: 3, Failures: 5 * time.Minute})
	require.Equal(t, b.Run(&Adaptive{}), b.Run(&Adaptive{}))
}

// The figures of docs/PERFORMANCE.md in small: no violation at twice the least link, and fewer cycles than RPO/2.
func TestTwiceTheLeastLinkIsEnough(t *testing.T) {
	for _, name := range []string{"oltp", "build", "boot", "hot"} {
		s, _ := Find(name)
		tr, err := s.Trace(time.Hour, 1)
		require.NoError(t, err)
		b := NewBed(tr, Setup{RPO: 30 * time.Second, Link: 1e6, Cross: [2]float64{0.1, 0.5}, Seed: 1})
		b = b.With(2 * b.Minimum())
		r, half := b.Run(&Adaptive{}), b.Run(&Fixed{T: 15 * time.Second})
		require.Zero(t, r.Violations, name)
		require.Less(t, r.Cycles, half.Cycles, name)
		require.Less(t, r.Bytes, 1.05*half.Bytes, name)
	}
}

// A burst of ten times the rate that fits the link: no violation.
func TestABurstOfTenTimesTheRateKeepsThePromise(t *testing.T) {
	for _, rpo := range []time.Duration{5 * time.Second, 30 * time.Second, 300 * time.Second} {
		for _, times := range []float64{12, 40} {
			const rate = 20.0 // blocks/s
			length := 24 * rpo.Seconds()
			var writes []Write
			at, block := 0.0, uint64(0)
			for at < length {
				gap := 1 / rate
				if at > length/3 && at < length/2 {
					gap /= 10
				}
				at += gap
				block++
				writes = append(writes, Write{min(at, length), block, 1})
			}
			tr, err := NewTrace("burst", length, 1, writes)
			require.NoError(t, err)
			r := NewBed(tr, Setup{RPO: rpo, Link: times * rate * Block, Seed: 1}).Run(&Adaptive{})
			require.Zero(t, r.Violations, "RPO %s, %gx", rpo, times)
		}
	}
}

func TestTracesSurviveTheirFile(t *testing.T) {
	s, _ := Find("oltp")
	writes := s.Generate(2*time.Minute, 1)
	var plain, packed bytes.Buffer
	require.NoError(t, WriteCSV(&plain, 120, s.Ratio, writes))
	z := gzip.NewWriter(&packed)
	_, err := z.Write(plain.Bytes())
	require.NoError(t, errors.Join(err, z.Close()))
	a, err := ReadCSV("a", &plain)
	require.NoError(t, err)
	b, err := ReadCSV("a", &packed)
	require.NoError(t, err)
	require.Equal(t, a, b)
	require.Equal(t, 120.0, a.Seconds)
	require.Equal(t, s.Ratio, a.Ratio)
	require.Equal(t, float64(total(writes)*Block), a.Written())
}

func total(writes []Write) int {
	n := 0
	for _, w := range writes {
		n += int(w.Blocks)
	}
	return n
}

func TestABadTraceNamesItsLine(t *testing.T) {
	for text, says := range map[string]string{
		"time_s,first_block,blocks\n1,2,3\n2,x,3\n": "line 3",
		"1,2\n":                      "line 1",
		"nan,2,3\n":                  "line 1",
		"5,1,1\n4,1,1\n":             "earlier",
		"1,1,2000000000\n":           "more than",
		"# seconds=-5\n1,1,1\n":      "cannot be simulated",
		"":                           "no length",
		"# seconds=abc\n":            "line 1",
		"# seconds=2\n5,1,1\n":       "outside",
		"\x1f\x8bnot gzip":           "gzip",
		strings.Repeat("9", 1<<17):   "cannot be read",
		"1,1099511627775,4294967296": "line 1",
	} {
		_, err := ReadCSV("t.csv", strings.NewReader(text))
		require.ErrorContains(t, err, says, "%.40q", text)
		require.Equal(t, model.InvalidArgument, model.KindOf(err))
	}
}

func FuzzReadCSV(f *testing.F) {
	f.Add([]byte("# seconds=60\ntime_s,first_block,blocks\n1,2,3\n"))
	f.Add([]byte("0.5,1099511627775,16\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if tr, err := ReadCSV("f", bytes.NewReader(raw)); err == nil && tr.Seconds > 3600 {
			t.Skip("too long to be worth it")
		}
	})
}

func TestPlotsAreWellFormedAndBounded(t *testing.T) {
	s, _ := Find("web")
	tr, err := s.Trace(10*time.Minute, 1)
	require.NoError(t, err)
	b := NewBed(tr, Setup{RPO: 5 * time.Second, Link: 1e6, Seed: 1, KeepTrail: true})
	results, err := Compare(b, []string{"fixed:2.5s", "best-fixed", "two-gear"})
	require.NoError(t, err)
	var plot, dots bytes.Buffer
	require.NoError(t, Plot(&plot, "web & <more>", results))
	require.NoError(t, Plot(io.Discard, "nothing", nil))
	require.NoError(t, Scatter(&dots, "t", "x", "y", 1e-3, []Dot{{-50, 0, "a", "fixed"}, {-20, 1, "b", "fixed"}, {3, 4, "c", "law"}}))
	for _, svg := range []string{plot.String(), dots.String()} {
		require.Less(t, len(svg), 200<<10)
		for d := xml.NewDecoder(strings.NewReader(svg)); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else {
				require.NoError(t, err)
			}
		}
	}
}

func TestUnknownSchedulesAreRefused(t *testing.T) {
	b := bed(t, trace(t), 10*time.Second, 1e6)
	for _, n := range []string{"fixed", "fixed:", "fixed:1ns", "fixed:9000h", "adaptve"} {
		_, err := Compare(b, []string{n})
		require.Equal(t, model.InvalidArgument, model.KindOf(err), n)
	}
}
