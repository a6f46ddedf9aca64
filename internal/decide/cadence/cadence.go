// Package cadence decides when the next cycle of a protection starts. Pure: the time is an argument.
//
// The law is the latest safe start of references/adaptive.md, section 3, limited by the age limit that follows the load of
// the link: the cost of a cycle per second falls with the distance of two captures, so a start is put off until the slack
// is used, and never further. Two things differ from that study on purpose. The aim is AtRisk (75 %) of the RPO target and
// not the target itself, so that an exposure beyond it means that something is wrong, which is what the alert says. And the
// duration of a cycle comes from the recent cycles alone (estimate.go); the estimator of unique dirty bytes comes later.
package cadence

import (
	"fmt"
	"time"

	"understudy/internal/model"
)

// AtRisk is the share of the RPO target at which a point is planned to be verified; beyond it an exposure is "at risk".
const AtRisk = 0.75

const (
	tminShare = 0.1                    // least distance of two captures, against storms when nothing fits
	tolerance = 250 * time.Millisecond // a timer under a second fires after a second: start at once instead
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
	Dirty       int64      // bytes to look at now; negative when unknown
	WriteRate   float64    // bytes/s now
	Samples     []Sample   // recent cycles, oldest first
	RetryAt     *time.Time // end of the back-off after a failure
	Requested   bool
	Paused      bool
	Hindered    string // why no cycle can be run now (the VM is off, a host is silent); empty when one can

	// With Learned the full law decides (law.go); without it the simple one, which knows only Samples.
	Learned   *Learned
	Written   int64         // bytes by the write counters since the last capture; negative when unknown
	Since     int64         // of Written, what came after Dirty was asked for
	SampledAt time.Time     // of Written and Dirty; zero: now
	Period    time.Duration // between two reads of the counters; 0: Period(RPO)
	Share     float64       // bytes/s granted on the link; 0: what was measured
	Crowd     float64       // use of the host's link by all its protections, 0..; 0: alone
	Phase     time.Duration // the age at which the next capture is due, so that captures of many VMs are not in step; 0: any
	Running   bool          // a cycle is under way: libvirt allows one backup job a domain
}

// Decide says when the next cycle starts, why, and which constraint binds.
func Decide(in Input) model.Cadence {
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
	if in.Learned != nil {
		c, _ := in.full()
		return c
	}
	return in.law()
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

func (in Input) law() model.Cadence {
	e := NewEstimate(in.Samples)
	d := e.Duration(in.Dirty)
	aim := scale(in.RPO, AtRisk)
	slack := in.Oldest.Add(aim).Sub(in.Now) - d
	// While we wait the guest writes on and the cycle grows: slack shrinks by 1 + rate/throughput a second.
	wait := scale(slack, 1/(1+max(in.WriteRate, 0)/e.Rate))
	c := in.start(wait, model.BindingSlack, fmt.Sprintf("verified by %s of the target when the cycle takes %s", percent(AtRisk), round(d)))

	if limit := scale(in.RPO, e.AgeLimit()); in.Oldest.Add(limit).Sub(in.Now) < wait {
		c = in.start(in.Oldest.Add(limit).Sub(in.Now), model.BindingLoad,
			fmt.Sprintf("the link is busy %s of the time: not older than %s", percent(e.Load), round(limit)))
	}
	if c.StartIn < tolerance {
		c = in.start(0, c.Binding, c.Reason)
	}
	if tmin := in.LastCapture.Add(scale(in.RPO, tminShare)).Sub(in.Now); !in.LastCapture.IsZero() && c.StartIn < tmin {
		return in.start(tmin, model.BindingTMin, fmt.Sprintf("captures are at least %s apart", round(scale(in.RPO, tminShare))))
	}
	return c
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
