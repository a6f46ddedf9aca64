package agent

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"understudy/activities"
	"understudy/internal/decide/allocate"
	"understudy/internal/model"
	"understudy/internal/replicate"
)

const (
	divideEvery = time.Second
	grantHold   = 100 * time.Millisecond // whoever ends earlier than the next division makes a new one
	leastTail   = 500 * time.Millisecond // of verify and commit; else as much as the cadence keeps back
	bindsAt     = 0.1                    // share of a transfer's time spent waiting for its lane that counts as limited
)

// shares divides this host's link, so many bytes a second on the wire, between the transfers that leave it: by
// decide/allocate, anew when a transfer begins or ends and each second between. Without a budget each has its policy's limit.
type shares struct {
	budget   int64 // bytes/s; 0: nothing is divided
	now      func() time.Time
	exposure func(uuid string) (oldest *time.Time, rpo time.Duration)
	served   func() int // VMs that are protected from here
	book     claims     // nil: nothing is kept
	log      *slog.Logger

	mu      sync.Mutex
	running map[*share]struct{}
	made    int
	vms     map[string]*account
	meter   useMeter
	gone    int64 // bytes of transfers that ended
	effort  effort
	wake    chan struct{}
}

// account is what is known of a VM between its transfers.
type account struct {
	claim  allocate.Reservation
	demand int64
	rpo    time.Duration
	perSee float64        // bytes on the wire for a byte looked at, of late
	paid   model.PointRef // its transfer was paid out of the claim: trying it again is not paid again
}

// share is one transfer under way.
type share struct {
	of      *shares
	in      activities.Transfer
	id      string
	lane    *replicate.Lane
	began   time.Time
	disks   map[string]replicate.Progress
	paid    bool // out of its VM's reservation
	reason  string
	rate    int64
	at      time.Time // of rate
	granted float64   // bytes, the integral of rate

	cpu time.Duration // of this process, its even part while it ran

	tick     time.Time // of the figures below
	sent     int64
	waited   time.Duration
	appetite int64 // bytes/s it can use, as seen in the last second; 0 unknown
}

var (
	_ activities.Shares = (*shares)(nil)
	_ activities.Share  = (*share)(nil)
)

func newShares(budget int64, now func() time.Time, exposure func(string) (*time.Time, time.Duration), served func() int, log *slog.Logger) *shares {
	return &shares{
		budget: budget, now: now, exposure: exposure, served: served, log: log, running: map[*share]struct{}{}, vms: map[string]*account{},
		wake: make(chan struct{}, 1),
	}
}

// run divides each second while transfers run, until ctx ends.
func (s *shares) run(ctx context.Context) {
	if s.budget <= 0 {
		return
	}
	tick := time.NewTicker(divideEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.mu.Lock()
		idle := len(s.running) == 0
		if !idle {
			s.measure()
			s.divide()
		}
		s.mu.Unlock()
		if !idle {
			continue
		}
		select { // an idle link costs nothing
		case <-ctx.Done():
			return
		case <-s.wake:
		}
	}
}

// Join implements activities.Shares.
func (s *shares) Join(in activities.Transfer) activities.Share {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	s.made++
	t := &share{of: s, in: in, id: in.VM.UUID + "/" + strconv.Itoa(s.made), began: now, at: now, tick: now, disks: map[string]replicate.Progress{}}
	s.effort.turn(t, true)
	if s.budget <= 0 {
		rate := int64(-1)
		if in.Cap > 0 {
			rate = in.Cap
		}
		t.lane = replicate.NewLane(rate)
		return t
	}
	t.lane = replicate.NewLane(0)
	s.running[t] = struct{}{}
	s.divide()
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return t
}

// Lane implements activities.Share.
func (t *share) Lane() *replicate.Lane { return t.lane }

// Progress implements activities.Share.
func (t *share) Progress(p replicate.Progress) {
	t.of.mu.Lock()
	defer t.of.mu.Unlock()
	t.disks[p.Disk] = p
}

// Leave implements activities.Share.
func (t *share) Leave(looked int64) activities.Granted {
	s := t.of
	s.mu.Lock()
	defer s.mu.Unlock()
	s.effort.turn(t, false)
	if s.budget <= 0 {
		return activities.Granted{CPU: t.cpu}
	}
	now := s.now()
	sent, waited := t.lane.Used()
	took := now.Sub(t.began)
	t.grant(t.rate, t.reason, now)
	out := activities.Granted{CPU: t.cpu, Rate: t.rate, Reason: t.reason, LinkUse: s.use(now)}
	if took > 0 {
		out.Rate = int64(t.granted / took.Seconds())
		out.Limited = waited.Seconds() >= bindsAt*took.Seconds() && (t.in.Cap <= 0 || out.Rate < t.in.Cap*95/100)
	}
	a := s.account(t, now)
	s.keep(t, a)
	out.Rate = max(out.Rate, min(int64(a.claim.Rate), s.budget)) // it can count on its reservation, whatever it asked beyond that
	if looked > 0 && !t.in.Seed {
		a.perSee += (min(float64(sent)/float64(looked), maxPerSee) - a.perSee) / 2
	}
	s.gone += sent
	delete(s.running, t)
	s.divide()
	return out
}

// maxPerSee is also where a VM starts that nothing is known of.
const maxPerSee = 1.1

// account gives the VM's account with its reservation as it is now.
func (s *shares) account(t *share, now time.Time) *account {
	rpo, uuid := s.rpo(t), t.in.VM.UUID
	a, ok := s.vms[uuid]
	demand := t.in.Demand
	switch known := s.claimed(uuid); {
	case demand > 0:
		demand = s.grown(uuid, known, demand, rpo)
	case known > 0:
		demand = known
	default: // not admitted by a figure: by an equal part of what can be promised
		demand = int64(allocate.Comfortable * float64(s.budget) / float64(max(s.served(), 1)) * rpo.Seconds() / 2)
	}
	switch {
	case !ok:
		a = &account{claim: allocate.Reserve(demand, rpo, now), perSee: maxPerSee}
		s.vms[uuid] = a
	case a.demand != demand || a.rpo != rpo:
		a.claim = a.claim.Resize(demand, rpo, now)
	}
	a.demand, a.rpo = demand, rpo
	return a
}

func (s *shares) rpo(t *share) time.Duration {
	if t.in.RPO > 0 {
		return t.in.RPO
	}
	if _, rpo := s.exposure(t.in.VM.UUID); rpo > 0 {
		return rpo
	}
	return model.DefaultPolicy().RPO
}

// divide grants every transfer its rate.
func (s *shares) divide() {
	now := s.now()
	in := allocate.Input{Now: now, Budget: s.budget, Load: s.use(now), Hold: grantHold}
	byID := make(map[string]*share, len(s.running))
	for t := range s.running {
		byID[t.id] = t
		in.VMs = append(in.VMs, t.ask(now))
	}
	for _, g := range allocate.Allocate(in).Grants {
		byID[g.ID].grant(g.Rate, g.Reason, now)
	}
}

// ask is the transfer as the allocator sees it. A first copy is nobody's promise: it gets what the others leave.
func (t *share) ask(now time.Time) allocate.VM {
	s := t.of
	a := s.account(t, now)
	t.paid = t.paid || !t.in.Point.IsZero() && a.paid == t.in.Point
	v := allocate.VM{
		ID: t.id, Tier: t.in.Tier, RPO: a.rpo, Remaining: t.remaining(a.perSee), Excess: t.in.Seed, Tail: max(leastTail, a.rpo/20), Cap: t.in.Cap,
	}
	v.Oldest, _ = s.exposure(t.in.VM.UUID)
	if !t.in.Seed && !t.paid {
		if a.claim, t.paid = a.claim.Take(v.Remaining, now); t.paid {
			a.paid = t.in.Point
		}
		v.Excess = !t.paid
	}
	if t.appetite > 0 && len(s.running) > 1 && (v.Cap <= 0 || t.appetite < v.Cap) {
		v.Cap = t.appetite
	}
	return v
}

// remaining is about what it still has to send: what is not looked at yet, as dear as what was.
func (t *share) remaining(perSee float64) int64 {
	const atEnd, prior = 64 << 10, 4 << 20
	looked, total := int64(0), int64(0)
	for _, p := range t.disks {
		looked, total = looked+p.DoneBytes, total+p.TotalBytes
	}
	if len(t.disks) < max(t.in.Disks, 1) {
		total = max(total, t.in.Look)
	}
	sent, _ := t.lane.Used()
	ratio := (float64(sent) + perSee*prior) / float64(looked+prior)
	return max(atEnd, int64(float64(total-looked)*min(ratio, maxPerSee)))
}

func (t *share) grant(rate int64, reason string, now time.Time) {
	t.granted += float64(t.rate) * now.Sub(t.at).Seconds()
	t.rate, t.reason, t.at = rate, reason, now
	t.lane.Set(rate)
}

// measure sees how much each transfer can use: one that waits for its disk, and not for its lane, leaves the rest to others.
func (s *shares) measure() {
	now := s.now()
	for t := range s.running {
		d := now.Sub(t.tick).Seconds()
		if d < divideEvery.Seconds()/2 {
			continue
		}
		sent, waited := t.lane.Used()
		if rate := int64(float64(sent-t.sent) / d); (waited-t.waited).Seconds() < bindsAt*d && t.rate > 0 {
			t.appetite = max(2*rate, s.budget/50)
		} else {
			t.appetite = 0
		}
		t.tick, t.sent, t.waited = now, sent, waited
	}
}

// use is the mean of a minute, as a share of the budget.
func (s *shares) use(now time.Time) float64 {
	total := s.gone
	for t := range s.running {
		sent, _ := t.lane.Used()
		total += sent
	}
	return s.meter.mean(now, total) / float64(s.budget)
}

// Use says what is granted of the link and how much of it is used; 0 without a budget.
func (s *shares) Use() (budget int64, use float64) {
	if s.budget <= 0 {
		return 0, 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.budget, s.use(s.now())
}

// binds says why a VM's transfer is kept waiting for the link just now; empty when it is not.
func (s *shares) binds(uuid string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for t := range s.running {
		if _, waited := t.lane.Used(); t.in.VM.UUID == uuid && waited.Seconds() >= bindsAt*s.now().Sub(t.began).Seconds() {
			return t.reason
		}
	}
	return ""
}

// forget drops a VM's account.
func (s *shares) forget(uuid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.vms, uuid)
}

// useMeter is the mean rate of a minute, from a count that grows.
type useMeter struct {
	marks []useMark // oldest first; the first is at least a minute old, when there is one
}

type useMark struct {
	at    time.Time
	total int64
}

const useWindow = time.Minute

func (m *useMeter) mean(now time.Time, total int64) float64 {
	if n := len(m.marks); n == 0 || now.Sub(m.marks[n-1].at) >= divideEvery/2 {
		m.marks = append(m.marks, useMark{now, total})
	}
	for len(m.marks) > 1 && now.Sub(m.marks[1].at) >= useWindow {
		m.marks = m.marks[1:]
	}
	return float64(max(total-m.marks[0].total, 0)) / useWindow.Seconds()
}
