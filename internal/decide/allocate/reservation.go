package allocate

import (
	"hash/fnv"
	"math"
	"time"
)

// Reservation is a VM's claim on the link: a token bucket. It is sized from what the VM was admitted with, not from its
// last cycles: a reservation that followed a burst would let the burst reserve.
type Reservation struct {
	Rate   float64   `json:"rate"`   // bytes a second
	Depth  float64   `json:"depth"`  // bytes
	Tokens float64   `json:"tokens"` // at At
	At     time.Time `json:"at"`
}

// Reserve makes a full reservation for a VM that sends half bytes on the wire when captured each RPO/2: twice that rate, as
// deep as an RPO.
func Reserve(half int64, rpo time.Duration, now time.Time) Reservation {
	r := Reservation{At: now}
	if half > 0 && rpo > 0 {
		r.Rate = 2 * float64(half) / (rpo.Seconds() / 2)
		r.Depth = r.Rate * rpo.Seconds()
		r.Tokens = r.Depth
	}
	return r
}

// Take asks for a whole transfer. One that fits is conforming and pays; one that does not is excess and pays nothing. Ask
// again for what is left of an excess transfer before each decision: it becomes conforming when what was reserved for the
// VM meanwhile carries the rest. So a burst is never starved of the VM's own reservation; without this an honest VM that
// was excess once came later, was larger, and stayed excess (twelve times its RPO in the model).
func (r Reservation) Take(bytes int64, now time.Time) (Reservation, bool) {
	r = r.refill(now)
	if need := float64(max(bytes, 0)); need <= r.Tokens {
		r.Tokens -= need
		return r, true
	}
	return r, false
}

// Resize changes the claim after a new admission and keeps the share that is left of it.
func (r Reservation) Resize(half int64, rpo time.Duration, now time.Time) Reservation {
	r = r.refill(now)
	n := Reserve(half, rpo, now)
	if r.Depth > 0 {
		n.Tokens = n.Depth * r.Tokens / r.Depth
	}
	return n
}

func (r Reservation) refill(now time.Time) Reservation {
	if passed := now.Sub(r.At).Seconds(); passed > 0 {
		r.Tokens = math.Min(r.Depth, r.Tokens+r.Rate*passed)
		r.At = now
	}
	return r
}

// FirstPhase is when the first capture after the seeding starts: at a point of the first half of the target that depends
// on the VM alone. Captures in step are the worst thing that can happen to a shared link.
func FirstPhase(id string, rpo time.Duration) time.Duration {
	h := fnv.New64a()
	_, _ = h.Write([]byte(id))
	x := h.Sum64()
	x ^= x >> 33 // ids that differ in the last character only differ in the low bits
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	return time.Duration(float64(rpo/2) * float64(x>>11) / (1 << 53))
}
