package replicate

import (
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"understudy/internal/link"
	"understudy/internal/model"
)

// shrink decides what is compressed, and does it. It is shared by the compressors of a run.
//
// With "auto" a batch is compressed when the time it saves on the link is more than the compressor takes; both are
// measured while running. A link that takes bytes faster than the compressor makes them is left alone.
type shrink struct {
	level zstd.EncoderLevel
	off   bool
	auto  bool
	probe bool // look at a sample first
	pool  sync.Pool

	mu    sync.Mutex
	link  float64 // seconds a byte takes on the link
	cost  float64 // seconds the compressor takes for a byte
	known bool    // link was measured
	bytes int     // sent since link was last reckoned
	time  time.Duration
	limit func() float64 // the least that link can be: of the bandwidth granted
}

// Where auto starts from before anything was measured: a link of 1 Gbit/s, a compressor of 400 MB/s. A small delta is
// over before there are figures, and compressing it costs little.
const (
	guessLink = 1.0 / 117e6
	guessCost = 1.0 / 400e6
	smoothing = 0.2
	measured  = 4 << 20
)

func newShrink(mode string, limit func() float64) (*shrink, error) {
	s := &shrink{link: guessLink, cost: guessCost, level: zstd.SpeedFastest, probe: true, limit: limit}
	switch mode {
	case "", "auto":
		s.auto = true
	case "off":
		s.off = true
	case "fast":
	case "default":
		s.level = zstd.SpeedDefault
	case "best":
		s.level, s.probe = zstd.SpeedBestCompression, false
	default:
		return nil, model.Fail(model.InvalidArgument, nil, "compression %q is unknown", mode).
			WithTry("auto, off, fast, default or best")
	}
	s.pool.New = func() any {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(s.level), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false),
			zstd.WithWindowSize(link.MaxBatch), zstd.WithLowerEncoderMem(true), zstd.WithAllLitEntropyCompression(true))
		if err != nil {
			return err
		}
		return e
	}
	return s, nil
}

// sent tells how long the link took for n bytes. Bytes are counted up before they count: the first megabytes go into
// buffers of the kernel at once, however slow the link is.
func (s *shrink) sent(n int, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes, s.time = s.bytes+n, s.time+took
	if s.bytes >= measured {
		is := s.time.Seconds() / float64(s.bytes)
		if s.known {
			is = (is + s.link) / 2
		}
		s.link, s.known = is, true // the first figure takes the place of the guess
		s.bytes, s.time = 0, 0
	}
}

// worth tells whether a batch that shrinks to the share ratio is better compressed.
func (s *shrink) worth(ratio float64) bool {
	limit := s.limit()
	s.mu.Lock()
	defer s.mu.Unlock()
	return (1-ratio)*max(s.link, limit) > s.cost
}

const (
	sampleSize  = 4 << 10
	samples     = 4
	minCompress = 1 << 10 // less is not worth a frame
	tooLittle   = 0.95
)

// pack compresses p into space, which is as large, and reports false when p should be sent as it is.
func (s *shrink) pack(p, space []byte) ([]byte, bool) {
	if s.off || len(p) < minCompress || s.auto && !s.worth(0) {
		return nil, false
	}
	e, ok := s.pool.Get().(*zstd.Encoder)
	if !ok {
		return nil, false
	}
	defer s.pool.Put(e)
	if s.probe && len(p) > 2*samples*sampleSize {
		ratio := s.sample(e, p, space)
		if ratio > tooLittle || s.auto && !s.worth(ratio) {
			return nil, false
		}
	}
	begun := time.Now()
	out := e.EncodeAll(p, space[:0])
	s.mu.Lock()
	s.cost += smoothing * (time.Since(begun).Seconds()/float64(len(p)) - s.cost)
	s.mu.Unlock()
	if len(out) >= len(p) || float64(len(out)) > tooLittle*float64(len(p)) {
		return nil, false
	}
	return out, true
}

// sample compresses some blocks of p and gives the share that is left of them.
func (s *shrink) sample(e *zstd.Encoder, p, space []byte) float64 {
	left := 0
	for i := range samples {
		at := (len(p) - sampleSize) / (samples - 1) * i
		left += len(e.EncodeAll(p[at:at+sampleSize], space[:0]))
	}
	return float64(left) / (samples * sampleSize)
}
