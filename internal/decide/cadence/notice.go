package cadence

import "time"

// EventBudget bounds what an agent tells of one VM: so many signals at once, and one more each refill, whatever the
// counters do. A day of the worst counters is 2 892 signals; an idle VM sends none.
const (
	eventBurst  = 12
	eventRefill = 30 * time.Second
	changeBy    = 2.0 // pace up or down by this factor is worth telling
	paceFloor   = 64 << 10
)

// Notice decides which looks at the counters an agent tells the workflow. It is the agent's memory of one VM.
type Notice struct {
	Tokens  float64   `json:"tokens"`
	At      time.Time `json:"at,omitzero"`
	Told    float64   `json:"told_pace"` // bytes/s
	Writing bool      `json:"writing"`   // told that there is something to protect
}

// Next says whether this look is told, and why; empty when not. written is since the last capture, pace is smoothed.
func (n Notice) Next(now time.Time, written int64, pace float64) (Notice, string) {
	if n.At.IsZero() {
		n.Tokens, n.At = eventBurst, now
	}
	if gone := now.Sub(n.At); gone > 0 {
		n.Tokens, n.At = min(n.Tokens+gone.Seconds()/eventRefill.Seconds(), eventBurst), now
	}
	why := ""
	switch {
	case !finite(pace):
	case written > 0 && !n.Writing:
		why = "first write since the capture"
	case max(pace, paceFloor) > changeBy*max(n.Told, paceFloor):
		why = "it writes faster"
	case max(pace, paceFloor)*changeBy < max(n.Told, paceFloor):
		why = "it writes more slowly"
	}
	if why == "" || n.Tokens < 1 {
		if written <= 0 {
			n.Writing = false // a capture was taken: the next first write is news
		}
		return n, ""
	}
	n.Tokens, n.Told, n.Writing = n.Tokens-1, pace, written > 0
	return n, why
}
