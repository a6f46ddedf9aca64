package agent

import "time"

// Signals cost the control plane about 3 ms of CPU each and fill histories, so that a VM that writes in an ugly rhythm must
// not send as it likes.
const (
	signalGap  = time.Second // least distance of two signals of one VM
	maxAnHour  = 3600
	minAnHour  = 240
	perRPO     = 4        // signals in one RPO target at most, on average
	rateFactor = 2.0      // a change of the write rate that matters
	rateFloor  = 64 << 10 // bytes/s; below it nothing matters
	rateTwice  = 2        // samples in a row that must agree: one is a burst
)

// budget is a token bucket: a sixth of an hour's signals at once, the rest spread over the hour.
type budget struct {
	tokens float64
	at     time.Time // of the last refill
	sent   time.Time
}

// anHour is how many signals a VM may send in any hour.
func anHour(rpo time.Duration) float64 {
	if rpo <= 0 {
		return minAnHour
	}
	return min(max(perRPO*float64(time.Hour)/float64(rpo), minAnHour), maxAnHour)
}

// spend takes a token when there is one and the last signal is long enough ago. spare leaves half of the tokens for what
// is more important.
func (b *budget) spend(now time.Time, rpo time.Duration, spare bool) bool {
	size := anHour(rpo) / 6
	if b.at.IsZero() {
		b.tokens, b.at = size, now
	}
	if d := now.Sub(b.at); d > 0 {
		b.tokens = min(size, b.tokens+d.Hours()*(anHour(rpo)-size))
		b.at = now
	}
	need := 1.0
	if spare {
		need += size / 2
	}
	if b.tokens < need || !b.sent.IsZero() && now.Sub(b.sent) < signalGap {
		return false
	}
	b.tokens--
	b.sent = now
	return true
}

// trend notices that a rate changed for good: by more than the factor, in two samples in a row.
type trend struct {
	told float64 // the rate that was told last
	seen int
}

func (t *trend) changed(rate float64) bool {
	now, told := max(rate, rateFloor), max(t.told, rateFloor)
	if now <= told*rateFactor && now >= told/rateFactor {
		t.seen = 0
		return false
	}
	t.seen++
	return t.seen >= rateTwice
}

// tell remembers what was told.
func (t *trend) tell(rate float64) { t.told, t.seen = rate, 0 }
