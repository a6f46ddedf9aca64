// Package allocate shares one host's link between the protections that use it, and says before a protection begins whether
// its promise can be kept beside the others. Pure: the time is an argument.
//
// The rule is that of references/adaptive.md, section 6. Each VM has a reservation (reservation.go). A transfer that fits
// it is conforming; what does not fit is excess, as a whole. Conforming transfers whose slack runs out go first; all else
// shares by weighted max-min, so a VM that bursts beyond its means takes from what is left over and from nobody's promise.
// Three things differ from the study. Its property 8 (an excess transfer puts no other VM out) does not follow from the
// slack of one transfer alone: slack is counted behind the conforming transfers that are due earlier, and tiers decide among
// urgent transfers only when not all of them can be in time; as long as they can, the earliest due goes first. In overload
// what is promised goes before what is not, then by tier. And an excess transfer asks its reservation again (Take).
package allocate

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"understudy/internal/model"
)

// Constants of the rule; docs/POLICY.md says where each comes from.
const (
	Earliest = 0.5  // no VM starts before this share of its RPO because of others: earlier starts send more
	latest   = 0.85 // of the RPO, on an idle link
	perLoad  = 0.6  // how much earlier a fully used link makes it
	urgent   = 0.2  // a conforming transfer with less slack than this share of its RPO goes first
	Strict   = 0.9  // load above which what is left over goes by tier
)

// VM is one protection as the allocator sees it.
type VM struct {
	ID   string
	Tier model.Tier
	RPO  time.Duration
	// Oldest is the oldest write that is not in a verified point; nil when there is none.
	Oldest *time.Time
	// Remaining is what the running transfer still has to send, in bytes on the wire; 0 when none runs.
	Remaining int64
	// Excess says that the running transfer does not fit the VM's reservation (Reservation.Take).
	Excess bool
	// Tail is what follows the last byte: verify and commit, guarded.
	Tail time.Duration
	// Cap bounds the VM's rate (policy and calendar), bytes a second; 0 is unbounded.
	Cap int64
}

// Input is everything a decision rests on.
type Input struct {
	Now    time.Time
	Budget int64         // bytes a second of the link at this hour
	Load   float64       // share of the budget used, mean of the last minute
	Hold   time.Duration // how long the grants will stand; nobody is granted more than it can send meanwhile
	VMs    []VM
}

// Class is why a transfer gets its rate.
type Class string

// Classes.
const (
	None   Class = "none"   // no transfer runs
	Urgent Class = "urgent" // conforming, and its slack runs out: served first
	Shared Class = "shared" // weighted share of what is left
	Tiered Class = "tiered" // the link is overloaded: what is left goes by tier
	Excess Class = "excess" // beyond its reservation: shares what nobody is promised
)

// Grant is what one VM gets.
type Grant struct {
	ID   string
	Rate int64 // bytes a second for its transfer
	// StartAge is the age of the oldest write at which a capture starts on behalf of the others, even if the VM's own law
	// would wait longer. Never under half of the RPO.
	StartAge time.Duration
	Start    bool          // that age is reached and no transfer runs
	Slack    time.Duration // what is left when everything conforming that is due earlier goes first
	Class    Class
	Reason   string
}

// Output has a grant for each VM, by ID.
type Output struct {
	Grants []Grant
	Strict bool // the load is above what can be promised
	Fits   bool // all conforming transfers can be in time
}

// Allocate shares the link. The result does not depend on the order of the input.
func Allocate(in Input) Output {
	if !(in.Load >= 0) { // also NaN
		in.Load = 0
	}
	hold := max(in.Hold, 50*time.Millisecond).Seconds()
	vms := slices.Clone(in.VMs)
	slices.SortFunc(vms, func(a, b VM) int { return cmp.Compare(a.ID, b.ID) })
	out := Output{Grants: make([]Grant, len(vms)), Strict: in.Load > Strict, Fits: true}
	share := max(Earliest, latest-perLoad*in.Load)
	running := make([]*transfer, 0, len(vms))
	store := make([]transfer, len(vms))
	for i, v := range vms {
		g := &out.Grants[i]
		*g = Grant{ID: v.ID, StartAge: scale(v.RPO, share), Class: None, Reason: "no transfer runs"}
		age := time.Duration(0)
		if v.Oldest != nil {
			age = max(0, in.Now.Sub(*v.Oldest))
		}
		if v.Remaining <= 0 {
			if g.Start = v.Oldest != nil && age >= g.StartAge; g.Start {
				g.Reason = fmt.Sprintf("the link is used %.0f %%: capture at %.0f %% of the target", in.Load*100, share*100)
			}
			continue
		}
		store[i] = newTransfer(v, g, age, in.Budget, hold)
		running = append(running, &store[i])
	}
	out.Fits = hurry(running, in.Budget)
	left := float64(max(in.Budget, 0))
	first, rest := split(running)
	order(first, out.Fits)
	for _, t := range first {
		left -= t.serve(left)
	}
	if out.Strict {
		byTier(rest, left)
	} else {
		maxMin(rest, left)
	}
	for _, t := range running {
		t.explain(out, in)
	}
	return out
}

// transfer is a running one, in seconds and bytes.
type transfer struct {
	vm     VM
	grant  *Grant
	bytes  float64
	want   float64 // rate it can use
	due    float64 // seconds until the last byte must be out
	alone  float64 // slack if it had the link, or its cap, alone
	slack  float64
	urgent bool
	rate   float64
}

func newTransfer(v VM, g *Grant, age time.Duration, budget int64, hold float64) transfer {
	t := transfer{vm: v, grant: g, bytes: float64(v.Remaining)}
	rate := float64(max(budget, 0))
	if v.Cap > 0 {
		rate = min(rate, float64(v.Cap))
	}
	t.want = min(rate, t.bytes/hold)
	t.due = (v.RPO - age - v.Tail).Seconds()
	t.alone = math.Inf(-1)
	if rate > 0 {
		t.alone = t.due - t.bytes/rate
	}
	t.slack = t.alone
	return t
}

// hurry counts the slack of each conforming transfer behind those that are due earlier, marks the urgent ones, and says
// whether all can be in time. One that is urgent makes those before it urgent: it waits for them.
func hurry(running []*transfer, budget int64) bool {
	var queue []*transfer
	for _, t := range running {
		if !t.vm.Excess {
			queue = append(queue, t)
		}
	}
	slices.SortFunc(queue, func(a, b *transfer) int {
		return cmp.Or(cmp.Compare(a.due, b.due), cmp.Compare(rank(a.vm.Tier), rank(b.vm.Tier)), cmp.Compare(a.vm.ID, b.vm.ID))
	})
	fits, ahead := true, 0.0
	for _, t := range queue {
		ahead += t.bytes
		t.slack = min(t.alone, t.due-ahead/float64(max(budget, 1)))
		fits = fits && t.slack >= 0
	}
	behind := false
	for _, t := range slices.Backward(queue) {
		behind = behind || t.slack < urgent*t.vm.RPO.Seconds() && t.slack < t.alone
		t.urgent = behind || t.slack < urgent*t.vm.RPO.Seconds()
	}
	return fits
}

func split(running []*transfer) (first, rest []*transfer) {
	for _, t := range running {
		if t.urgent {
			first = append(first, t)
		} else {
			rest = append(rest, t)
		}
	}
	return first, rest
}

// order puts the earliest due first while all can be in time (no order does better), and the tiers first when not.
func order(first []*transfer, fits bool) {
	slices.SortFunc(first, func(a, b *transfer) int {
		if fits {
			return cmp.Or(cmp.Compare(a.due, b.due), cmp.Compare(rank(a.vm.Tier), rank(b.vm.Tier)), cmp.Compare(a.vm.ID, b.vm.ID))
		}
		return cmp.Or(cmp.Compare(rank(a.vm.Tier), rank(b.vm.Tier)), cmp.Compare(a.alone, b.alone), cmp.Compare(a.vm.ID, b.vm.ID))
	})
}

func (t *transfer) serve(left float64) float64 {
	t.rate = max(0, min(t.want, left))
	return t.rate
}

// byTier serves what is promised before what is not, each tier before the next. Within a tier the promised go by slack;
// the others share, or one of them would take all.
func byTier(rest []*transfer, left float64) {
	var excess [len(weights)][]*transfer
	var promised []*transfer
	for _, t := range rest {
		if t.vm.Excess {
			excess[rank(t.vm.Tier)] = append(excess[rank(t.vm.Tier)], t)
		} else {
			promised = append(promised, t)
		}
	}
	order(promised, false)
	for _, t := range promised {
		left -= t.serve(left)
	}
	for _, level := range excess {
		left -= maxMin(level, left)
	}
}

// maxMin fills all at the pace of their weights; who needs least is full first. It returns what was given.
func maxMin(rest []*transfer, left float64) float64 {
	rest = slices.Clone(rest)
	slices.SortFunc(rest, func(a, b *transfer) int {
		return cmp.Or(cmp.Compare(a.want/a.weight(), b.want/b.weight()), cmp.Compare(a.vm.ID, b.vm.ID))
	})
	sum, given := 0.0, 0.0
	for _, t := range rest {
		sum += t.weight()
	}
	for _, t := range rest {
		given += t.serve(min((left-given)*t.weight()/sum, left-given))
		sum -= t.weight()
	}
	return given
}

func (t *transfer) explain(out Output, in Input) {
	g := t.grant
	g.Rate, g.Slack, g.Class = int64(t.rate), seconds(t.slack), Shared
	switch {
	case t.urgent:
		g.Class = Urgent
		g.Reason = fmt.Sprintf("%s of slack are left of a target of %s: served first", round(g.Slack), t.vm.RPO)
		if !out.Fits {
			g.Reason += ", by tier, because not all can be in time"
		}
	case t.vm.Excess:
		g.Class, g.Reason = Excess, "it wrote more than is reserved for it: it gets what the others leave"
	case out.Strict:
		g.Class, g.Reason = Tiered, fmt.Sprintf("the link is used %.0f %%: what is left goes by tier", in.Load*100)
	default:
		g.Reason = fmt.Sprintf("a share of weight %.0f of what is left", t.weight())
	}
	if t.vm.Cap > 0 && t.rate >= float64(t.vm.Cap) {
		g.Reason += "; its own bandwidth limit binds"
	}
}

// weights by rank.
var weights = [...]float64{4, 2, 1}

func (t *transfer) weight() float64 { return weights[rank(t.vm.Tier)] }

// rank is 0 for the most important; what is unknown counts as least.
func rank(t model.Tier) int {
	switch t {
	case model.Gold:
		return 0
	case model.Silver:
		return 1
	case model.Bronze:
		return 2
	}
	return 2
}

func scale(d time.Duration, by float64) time.Duration { return time.Duration(float64(d) * by) }

// seconds never overflows: what is further away than a day is a day.
func seconds(s float64) time.Duration {
	const day = 24 * 3600
	return time.Duration(max(-day, min(day, s)) * float64(time.Second))
}

func round(d time.Duration) time.Duration { return d.Round(10 * time.Millisecond) }
