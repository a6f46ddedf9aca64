// Package cadence decides when the next cycle of a protection starts. Pure: the time is an argument.
//
// The law (law.go) is the latest safe start of references/adaptive.md, section 3, limited by the age limit that follows the load of
// the link: the cost of a cycle per second falls with the distance of two captures, so a start is put off until the slack
// is used, and never further. docs/POLICY.md derives it.
package cadence

import (
	"fmt"
	"time"

	"understudy/internal/model"
)

const (
	tminShare = 0.1 // least distance of two captures, against storms when nothing fits
	minPoll   = 2 * time.Second
	maxPoll   = 5 * time.Minute
	maxWait   = 30 * time.Second // of a retry
)

// Input is everything a decision rests on.
type Input struct {
	Now         time.Time
	RPO         time.Duration
	Committed   bool       // there is a verified point to build on
	LastCapture time.Time  // zero when there was none
	Oldest      *time.Time // oldest write not in a verified point, one sample earlier; nil when nothing was written
	RetryAt     *time.Time // end of the back-off after a failure
	Requested   bool
	Paused      bool
	Hindered    string // why no cycle can be run now (the VM is off, a host is silent); empty when one can

	Learned   *Learned      // nil: nothing is known, and the law is careful
	Dirty     int64         // bytes in dirty clusters now; negative when unknown
	Written   int64         // bytes by the write counters since the last capture; negative when unknown
	Since     int64         // of Written, what came after Dirty was asked for
	SampledAt time.Time     // of Written and Dirty; zero: now
	Period    time.Duration // between two reads of the counters; 0: Period(RPO)
	Share     float64       // bytes/s granted on the link; 0: what was measured
	Crowd     float64       // use of the host's link by all its protections, 0..; 0: alone
	Phase     time.Duration // the age at which the next capture is due, so that captures of many VMs are not in step; 0: any
	Apart     time.Duration // captures are at least so far apart because of a CPU budget, as far as the RPO allows
	Running   bool          // a cycle is under way: libvirt allows one backup job a domain
}

// Decide says when the next cycle starts, why, and which constraint binds.
func Decide(in Input) model.Cadence {
	in = in.known()
	switch {
	case in.Paused:
		return in.look(IdlePoll(in.RPO), model.BindingPaused, "paused by a person")
	case in.Hindered != "":
		return in.look(IdlePoll(in.RPO), model.BindingWaiting, in.Hindered)
	case in.Running:
		return in.look(in.period(), model.BindingRunning, "a cycle is under way")
	case in.Requested:
		return in.start(0, model.BindingRequest, "a person asked for it")
	case in.RetryAt != nil && in.RetryAt.After(in.Now):
		return in.start(in.RetryAt.Sub(in.Now), model.BindingRetry, "the last cycle failed")
	case !in.Committed:
		return in.start(0, model.BindingSeed, "there is no verified point yet")
	case in.Oldest == nil:
		return in.look(IdlePoll(in.RPO), model.BindingIdle, "nothing was written since the last point")
	}
	return in.full()
}

// known is in with what was learned, which may be nothing.
func (in Input) known() Input {
	if in.Learned == nil {
		in.Learned = &Learned{}
	}
	return in
}

// IdlePoll is how often an idle VM is looked at. Half of the target: when the agent's signal about the first write is lost,
// half of the target is left for the cycle. The lower bound keeps the control plane's cost bounded (a look costs 11 events),
// the upper one notices a VM that vanished without an event.
func IdlePoll(rpo time.Duration) time.Duration { return min(max(rpo/2, minPoll), maxPoll) }

// Backoff is the wait after n failures in a row: doubling from a second, at most half of the target and 30 s.
func Backoff(failures int, rpo time.Duration) time.Duration {
	top := min(max(rpo/2, time.Second), maxWait)
	wait := time.Second
	for i := 1; i < failures && wait < top; i++ {
		wait *= 2
	}
	return min(wait, top)
}

func (in Input) start(wait time.Duration, b model.Binding, reason string) model.Cadence {
	wait = max(wait, 0)
	c := model.Cadence{StartIn: wait, NextAt: in.Now.Add(wait), Binding: b, Reason: reason}
	if !in.LastCapture.IsZero() {
		c.Interval = c.NextAt.Sub(in.LastCapture)
	}
	return c
}

func (in Input) look(wait time.Duration, b model.Binding, reason string) model.Cadence {
	c := in.start(wait, b, reason)
	c.Skip = true
	return c
}

func scale(d time.Duration, by float64) time.Duration { return time.Duration(float64(d) * by) }

func percent(share float64) string { return fmt.Sprintf("%.0f %%", share*100) }

func round(d time.Duration) time.Duration { return d.Round(10 * time.Millisecond) }
