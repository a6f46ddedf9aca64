package replicate

import (
	"context"
	"time"

	"golang.org/x/time/rate"
)

// lane is the share of the link that a run may use. A nil limiter is all of it.
type lane struct {
	limit *rate.Limiter
	batch int // bytes of data to send at once, so that a slow lane is used evenly
}

// fullBatch and smallBatch bound the data of one batch.
const (
	fullBatch  = unitSize
	smallBatch = 64 << 10
)

func newLane(bandwidth int64) *lane {
	if bandwidth <= 0 {
		return &lane{batch: fullBatch}
	}
	batch := int(min(max(bandwidth/8, smallBatch), fullBatch))
	// The bucket holds about an eighth of a second, and at least one small batch.
	return &lane{limit: rate.NewLimiter(rate.Limit(bandwidth), batch), batch: batch}
}

// pass waits until n bytes may go.
func (l *lane) pass(ctx context.Context, n int) error {
	if l.limit == nil {
		return nil
	}
	for n > 0 {
		part := min(n, l.limit.Burst())
		r := l.limit.ReserveN(time.Now(), part)
		if wait := r.Delay(); wait > 0 {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				r.Cancel()
				return context.Cause(ctx)
			}
		}
		n -= part
	}
	return nil
}
