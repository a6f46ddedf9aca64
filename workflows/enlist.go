package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/decide/mode"
	"understudy/internal/model"
)

// worthSaying: a wait shorter than an eighth of the RPO is not written down, for it is over before many have looked.
const worthSaying = 8

// seldom is by what it is decided whether the seldom changing part of the memo is written anew. Like often it holds plain
// values only, because a field more would write more often: that is another sequence of commands, and needs a version.
type seldom struct {
	phase                   model.Phase
	primary, standby        model.HostID
	generation              model.Generation
	policy, tests, warnings int
	paused, off, failover   string
	lease                   model.LeaseMode
	why, grantors           string
	wait                    time.Duration
	rescue                  int64
	standbyReady            bool
}

// often is by what it is decided whether anything is written.
type often struct {
	seldom
	committed    model.PointRef
	next, oldest time.Time
	skip         bool
}

// listing is what the memo holds.
type listing struct {
	on     bool // this run writes one
	plain  bool
	until  time.Time
	said   often
	listed seldom
	known  bool // listed was written in this run
}

// enlist brings the memo up to date that lets a list do without a query. Each write is an event, so what moved by less than
// a twentieth of the RPO is left as it is; and while the reader has to ask in any case nothing is written at all: when
// something is wrong, when a cycle or a failover runs, when the plan that was told is overdue.
func (p *protection) enlist(ctx workflow.Context) {
	l := &p.listing
	if !l.on {
		return
	}
	st, now := p.st, workflow.Now(ctx)
	asked := !l.plain || !now.Before(l.until)
	until := p.plainUntil(ctx)
	if !p.plain() || until.Sub(now) < p.rpo(ctx)/worthSaying {
		if !asked || !l.known && st.Told > 0 { // the run before left one
			p.keepInMemo(ctx, contract.Now{Rev: st.Told + 1}, false)
		}
		return
	}
	cur := p.listedNow()
	if !asked && cur.like(l.said, p.rpo(ctx)/lookShare) {
		return
	}
	anew := !l.known || cur.seldom != l.listed
	if p.keepInMemo(ctx, contract.NowOf(st.Told+1, *st, until), anew) {
		l.said, l.listed = cur, cur.seldom
	}
}

func (p *protection) keepInMemo(ctx workflow.Context, now contract.Now, anew bool) bool {
	memo := map[string]any{contract.MemoNow: now}
	if anew || !p.listing.known {
		memo[contract.MemoListed] = contract.ListedOf(p.vm, *p.st)
	}
	if err := workflow.UpsertMemo(ctx, memo); err != nil {
		p.log.Warn("the memo was not written", "error", err)
		return false
	}
	p.st.Told = now.Rev
	p.listing.plain, p.listing.until, p.listing.known = now.Plain, now.Until, true
	return true
}

// plain says that a list needs nothing but the memo: all is well or stands still, and the next step is planned.
func (p *protection) plain() bool {
	st := p.st
	calm := st.Phase == model.PhaseProtected || st.Phase == model.PhaseSuspended
	return calm && st.Accepted && st.InFlight == nil && len(st.Alerts) == 0 && st.LastError == "" && st.Failures == 0 && st.RetryAt == nil &&
		st.Failed == "" && !p.failingOver() && st.Testing == nil && p.unprotect == nil && !p.silent(st.Primary) && !p.silent(st.Standby)
}

// plainUntil is when the next step is due, or the exposure comes to be a risk if that is sooner.
func (p *protection) plainUntil(ctx workflow.Context) time.Time {
	until, age := p.st.Cadence.NextAt, p.exposure(ctx)
	at, rises := mode.NextThresholdOnPlan(age, p.rpo(ctx), p.planned(ctx))
	if risk := workflow.Now(ctx).Add(at - age); rises && p.st.Unreplicated != nil && risk.Before(until) {
		return risk
	}
	return until
}

func (p *protection) listedNow() often {
	st := p.st
	o := often{
		seldom: seldom{
			phase: st.Phase, primary: st.Primary, standby: st.Standby, generation: st.Generation, policy: st.Policy.Version, tests: len(st.Tests),
			warnings: len(st.Warnings), off: st.Off, standbyReady: st.StandbyReady,
		},
		committed: st.Committed, next: st.Cadence.NextAt, skip: st.Cadence.Skip,
	}
	if n := len(st.Tests); n > 0 {
		o.tests = st.Tests[n-1].Number
	}
	if st.Paused != nil {
		o.paused = st.Paused.By + st.Paused.Reason + st.Paused.At.String()
	}
	if f := st.Failover; f != nil {
		o.failover = f.WorkflowID + f.Outcome
	}
	if st.Lease != nil {
		o.lease, o.why, o.wait, o.grantors = st.Lease.Mode, st.Lease.Why, st.Lease.Wait(), fmt.Sprint(st.Lease.Grantors)
	}
	if st.Rescue != nil {
		o.rescue = st.Rescue.Unreplicated + 2 // -1 is not known, none is 0
	}
	if st.Unreplicated != nil {
		o.oldest = *st.Unreplicated
	}
	return o
}

// like says that nobody would be misled by the older one. An exposure must never seem younger than it is.
func (o often) like(told often, within time.Duration) bool {
	near := func(a, b time.Time) bool { return a.Sub(b).Abs() <= within }
	return o.seldom == told.seldom && o.committed == told.committed && o.skip == told.skip && near(o.next, told.next) &&
		o.oldest.IsZero() == told.oldest.IsZero() && near(o.oldest, told.oldest) && !o.oldest.Before(told.oldest)
}
