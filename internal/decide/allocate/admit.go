package allocate

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"understudy/internal/model"
)

// Loads of the admission test.
const (
	Comfortable = 0.8 // up to here nobody is late in the model of a fleet, bursts included
	Full        = 0.9 // up to here only a burst makes one late
)

// Demand is what one VM asks of the link, from its curve or from a sample.
type Demand struct {
	ID   string
	Tier model.Tier
	RPO  time.Duration
	Half int64 // bytes on the wire of a capture each RPO/2
	// Fixed is what a cycle costs beside the transfer (p99), Guard the factor from predicted to real transfer times (p95).
	Fixed time.Duration
	Guard float64
	Cap   int64 // of its policy, bytes a second; 0 unbounded
	// Sampled says that Half comes from one short sample, not from the windows of a day.
	Sampled bool
}

// Load is the share of the budget that it needs.
func (d Demand) Load(budget int64) float64 {
	if budget <= 0 {
		return 0
	}
	return d.load(budget)
}

// Verdict of the admission test.
type Verdict string

// Verdicts.
const (
	Accept Verdict = "accept"
	Warn   Verdict = "warn"   // accepted; somebody may be late
	Refuse Verdict = "refuse" // only when forced
)

// Admission is the verdict with its numbers.
type Admission struct {
	Verdict     Verdict
	Reason      string
	Try         string
	Alone       time.Duration // a cycle of this VM when it has the link, or its cap, to itself
	Limit       time.Duration // what that may take: half of the RPO, less the margin
	Before      float64       // load of the others, share of the budget
	Load        float64       // of all, the new one included
	Promised    float64       // of gold and silver alone
	BronzeLate  time.Duration // by how much bronze exceeds its targets, at the longest; 0 when it does not
	Late        []string      // the bronze VMs that will be late
	Provisional bool          // rests on a short sample
}

// Admit says whether asked fits beside the others. Half of the RPO is the measure: with a period and a relative deadline of
// RPO/2 a set can be served in time whenever its load is at most 1, and a longer period has a shorter deadline.
func Admit(budget int64, others []Demand, asked Demand) Admission {
	a := Admission{Verdict: Accept, Provisional: asked.Sampled, Limit: asked.RPO/2 - margin(asked.RPO)}
	if budget <= 0 {
		a.Verdict, a.Reason = Refuse, "the link has no budget"
		return a
	}
	a.Alone = asked.alone(budget)
	all := append(slices.Clone(others), asked)
	slices.SortFunc(all, func(x, y Demand) int { return cmp.Compare(x.ID, y.ID) })
	bronze, latest := 0.0, time.Duration(0)
	for _, d := range all {
		load := d.load(budget)
		a.Load += load
		if d.ID != asked.ID {
			a.Before += load
		}
		if d.Tier == model.Bronze {
			bronze += load
			latest = max(latest, d.RPO)
			a.Late = append(a.Late, d.ID)
		} else {
			a.Promised += load
		}
	}
	// What is kept back above Full carries fixed costs and cross traffic; bronze stretches over the rest.
	if room := Full - a.Promised; a.Load > Full && bronze > 0 && room > 0 {
		a.BronzeLate = seconds(latest.Seconds() * (bronze/room - 1))
	} else {
		a.Late = nil
	}
	a.judge(asked)
	if a.Provisional {
		a.Reason += " (provisional: from one short sample)"
	}
	return a
}

func (a *Admission) judge(asked Demand) {
	use := fmt.Sprintf("the link would be used %.0f %% (gold and silver %.0f %%), without %s %.0f %%", a.Load*100, a.Promised*100, asked.ID, a.Before*100)
	switch {
	case a.Alone > a.Limit:
		a.Verdict = Refuse
		a.Reason = fmt.Sprintf("a cycle of %s alone takes %s and may take %s at an RPO of %s", asked.ID, round(a.Alone), round(a.Limit), asked.RPO)
		a.Try = "a longer --rpo, or more --bandwidth"
	case a.Load <= Comfortable:
		a.Reason = use
	case a.Load <= Full:
		a.Verdict = Warn
		a.Reason = fmt.Sprintf("%s: above %.0f %% a burst can make a VM late", use, Comfortable*100)
	case a.Promised <= Comfortable && a.BronzeLate > 0:
		a.Verdict = Warn
		a.Reason = fmt.Sprintf("%s: bronze gives way and will be late by up to %s (%s)", use, a.BronzeLate.Round(time.Second), some(a.Late))
	default:
		a.Verdict = Refuse
		a.Reason = fmt.Sprintf("%s: more than %.0f %% cannot be promised", use, Comfortable*100)
		a.Try = "a longer --rpo or tier bronze for some, another standby, or --force"
	}
}

func (d Demand) load(budget int64) float64 {
	if d.RPO <= 0 {
		return 0
	}
	return float64(max(d.Half, 0)) / ((d.RPO.Seconds() / 2) * float64(budget))
}

func (d Demand) alone(budget int64) time.Duration {
	rate := budget
	if d.Cap > 0 {
		rate = min(rate, d.Cap)
	}
	return d.Fixed + seconds(max(d.Guard, 1)*float64(max(d.Half, 0))/float64(rate))
}

// margin is that of the cadence law.
func margin(rpo time.Duration) time.Duration { return max(500*time.Millisecond, rpo/20) }

func some(ids []string) string {
	const most = 5
	if len(ids) <= most {
		return strings.Join(ids, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(ids[:most], ", "), len(ids)-most)
}
