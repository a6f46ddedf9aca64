package replicate

import (
	"context"
	"math"
	"sync"
	"time"
)

// fullBatch and smallBatch bound the data of one batch.
const (
	fullBatch  = unitSize
	smallBatch = 64 << 10
)

// Lane is the share of the link that a run may use. Whoever shares the link out may change its rate while the run goes on.
// It is a token bucket that is paid before the bytes go, in the order of asking.
type Lane struct {
	mu      sync.Mutex
	rate    float64 // bytes/s; negative: all of the link
	credit  float64 // bytes that may have gone by now
	booked  float64 // bytes that were asked for
	at      time.Time
	changed chan struct{} // closed with each new rate
	gone    int64
	waiting int
	since   time.Time // of waiting
	waited  time.Duration
}

// NewLane makes a lane of so many bytes a second; negative: all of the link; 0: nothing passes until Set.
func NewLane(rate int64) *Lane {
	return &Lane{rate: float64(rate), at: time.Now(), changed: make(chan struct{})}
}

// newLane is a lane of its own; a small capture must not wait for its first bytes.
func newLane(bandwidth int64) *Lane {
	if bandwidth <= 0 {
		return NewLane(-1)
	}
	l := NewLane(bandwidth)
	l.credit = float64(l.batch())
	return l
}

// Set changes the rate at once, also for what waits already.
func (l *Lane) Set(rate int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if float64(rate) == l.rate {
		return
	}
	l.refill(time.Now())
	l.rate = float64(rate)
	close(l.changed)
	l.changed = make(chan struct{})
}

// Used says how many bytes went, and how long any of them was kept waiting.
func (l *Lane) Used() (bytes int64, waited time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	waited = l.waited
	if l.waiting > 0 {
		waited += time.Since(l.since)
	}
	return l.gone, waited
}

// batch is how many bytes of data are sent at once: a slow lane is used evenly.
func (l *Lane) batch() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return batchOf(l.rate)
}

func batchOf(rate float64) int {
	if rate < 0 {
		return fullBatch
	}
	return int(min(max(rate/8, smallBatch), fullBatch))
}

// perByte is the least time that a byte takes, in seconds; 0 when nothing bounds it.
func (l *Lane) perByte() float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.rate < 0:
		return 0
	case l.rate == 0:
		return math.Inf(1)
	}
	return 1 / l.rate
}

// refill never saves up more than half a batch, a sixteenth of a second: what was not used in time is for the others.
func (l *Lane) refill(now time.Time) {
	if l.rate < 0 {
		l.credit = l.booked
	} else if d := now.Sub(l.at); d > 0 {
		l.credit = max(l.credit, min(l.credit+l.rate*d.Seconds(), l.booked+float64(batchOf(l.rate))/2))
	}
	l.at = now
}

// pass waits until n bytes may go.
func (l *Lane) pass(ctx context.Context, n int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refill(time.Now()) // before booking: the least that is saved up does not depend on n
	l.booked += float64(n)
	mine := l.booked
	for {
		now := time.Now()
		l.refill(now)
		missing := mine - l.credit
		if missing < 1 { // less than a byte is rounding
			l.gone += int64(n)
			return nil
		}
		if err := l.wait(ctx, missing, now); err != nil {
			return err
		}
	}
}

// wait returns when the missing bytes may have come, the rate changed, or ctx ended.
func (l *Lane) wait(ctx context.Context, missing float64, now time.Time) error {
	d := time.Hour // until the rate changes
	if l.rate > 0 {
		d = min(d, time.Duration(missing/l.rate*float64(time.Second))+time.Microsecond)
	}
	changed := l.changed
	if l.waiting++; l.waiting == 1 {
		l.since = now
	}
	l.mu.Unlock()
	t := time.NewTimer(d)
	var err error
	select {
	case <-t.C:
	case <-changed:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	t.Stop()
	l.mu.Lock()
	if l.waiting--; l.waiting == 0 {
		l.waited += time.Since(l.since)
	}
	return err
}
