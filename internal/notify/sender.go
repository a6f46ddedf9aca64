package notify

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"understudy/internal/model"
)

const (
	maxWaiting = 1000           // notices for one receiver
	maxAge     = 24 * time.Hour // a message that is older says nothing any more
	gather     = 500 * time.Millisecond
	firstWait  = time.Second
	longWait   = time.Minute
	batchEvery = 10 * time.Second // in the long run; a few may follow each other at once
	batchBurst = 6
)

// Counts are what became of notices at all receivers together.
type Counts struct {
	Delivered, Failed, Dropped int64 // Failed are attempts
}

// sender has a lane for each receiver.
type sender struct {
	source  Source
	log     *slog.Logger
	now     func() time.Time
	settled func(...model.Notice) // a receiver took them, or they were given up
	lanes   []*lane

	mu     sync.Mutex
	counts Counts
}

// lane is the queue of one receiver. Of each key only the newest notice waits.
type lane struct {
	*sender
	to      Receiver
	wake    chan struct{}
	limit   *rate.Limiter
	first   time.Duration // of waits after failures
	mu      sync.Mutex
	waiting []model.Notice // oldest first
}

func newSender(source Source, to []Receiver, log *slog.Logger, now func() time.Time, settled func(...model.Notice)) *sender {
	s := &sender{source: source, log: log, now: now, settled: settled}
	for _, r := range to {
		s.lanes = append(s.lanes, &lane{
			sender: s, to: r, wake: make(chan struct{}, 1), limit: rate.NewLimiter(rate.Every(batchEvery), batchBurst), first: firstWait,
		})
	}
	return s
}

// put never waits.
func (s *sender) put(notices ...model.Notice) {
	if len(notices) == 0 {
		return // a lane that is woken for nothing uses up its limit
	}
	for _, l := range s.lanes {
		l.put(notices, true)
	}
}

func (s *sender) count(add func(*Counts)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	add(&s.counts)
}

// run delivers until ctx ends.
func (s *sender) run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, l := range s.lanes {
		wg.Go(func() { l.run(ctx) })
	}
	wg.Wait()
}

// put adds notices; newest ones replace what waits under their keys, those that come back do not.
func (l *lane) put(notices []model.Notice, newest bool) {
	l.mu.Lock()
	dropped := 0
	for _, n := range notices {
		at := slices.IndexFunc(l.waiting, func(w model.Notice) bool { return w.Key == n.Key })
		switch {
		case at < 0:
			l.waiting = append(l.waiting, n)
		case newest:
			if n.State == model.AlarmWorse && l.waiting[at].State == model.AlarmFiring {
				n.State = model.AlarmFiring // nobody heard the beginning
			}
			l.waiting[at] = n
			dropped++
		default:
			dropped++
		}
	}
	var lost []model.Notice
	if over := len(l.waiting) - maxWaiting; over > 0 {
		lost = slices.Clone(l.waiting[:over])
		l.waiting = slices.Delete(l.waiting, 0, over)
		dropped += over
	}
	l.mu.Unlock()
	l.settled(lost...)
	if dropped > 0 {
		l.count(func(c *Counts) { c.Dropped += int64(dropped) })
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// take empties the queue and leaves out what is too old.
func (l *lane) take() []model.Notice {
	l.mu.Lock()
	all := l.waiting
	l.waiting = nil
	l.mu.Unlock()
	var fresh, old []model.Notice
	for _, n := range all {
		if l.now().Sub(n.At) < maxAge {
			fresh = append(fresh, n)
		} else {
			old = append(old, n)
		}
	}
	l.count(func(c *Counts) { c.Dropped += int64(len(old)) })
	l.settled(old...)
	return fresh
}

func (l *lane) empty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting) == 0
}

func (l *lane) run(ctx context.Context) {
	wait := l.first
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		}
		if l.empty() {
			continue
		}
		if pause(ctx, gather); l.limit.Wait(ctx) != nil { // what else begins with it is one message
			return
		}
		batch := l.take()
		if len(batch) == 0 {
			continue
		}
		if err := l.send(ctx, batch); err != nil {
			if ctx.Err() != nil {
				return
			}
			l.log.Warn("notification_failed", "receiver", l.to.Name(), "notices", len(batch), "error", err, "again_in", wait.String())
			l.count(func(c *Counts) { c.Failed++ })
			l.put(batch, false)
			pause(ctx, wait)
			wait = min(2*wait, longWait)
			continue
		}
		wait = l.first
		l.count(func(c *Counts) { c.Delivered += int64(len(batch)) })
		for _, n := range batch {
			l.log.Info("notified", "receiver", l.to.Name(), "state", string(n.State), "name", n.Name, "vm", n.VM)
		}
		l.settled(batch...)
	}
}

func (l *lane) send(ctx context.Context, batch []model.Notice) error {
	ctx, cancel := context.WithTimeout(ctx, sendLimit)
	defer cancel()
	return l.to.Send(ctx, Batch{Source: l.source, Notices: batch})
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
