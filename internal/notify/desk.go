package notify

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"understudy/internal/decide/alarm"
	"understudy/internal/durable"
	"understudy/internal/model"
)

// Options of a desk.
type Options struct {
	Source Source
	// File keeps what was said, so that a restart repeats nothing.
	File string
	// Repeat is after which time an alarm that lasts is told again.
	Repeat time.Duration
	Log    *slog.Logger
	Now    func() time.Time
}

// Desk takes alarms in as they are and tells what is new of them. A nil desk tells nothing.
type Desk struct {
	o      Options
	sender *sender

	mu     sync.Mutex
	ledger alarm.Ledger
}

// NewDesk for receivers; nil when there are none.
func NewDesk(to []Receiver, o Options) *Desk {
	if len(to) == 0 {
		logNone(o.Log)
		return nil
	}
	d := &Desk{o: o}
	if err := durable.ReadJSON(o.File, &d.ledger); err != nil && !errors.Is(err, fs.ErrNotExist) {
		o.Log.Warn("notifications_forgotten", "error", err, "meaning", "alarms that were told are told once more")
		d.ledger = alarm.Ledger{}
	}
	d.ledger.Begin(o.Now())
	d.sender = newSender(o.Source, to, o.Log, o.Now, d.settled)
	for _, r := range to {
		o.Log.Info("notifies", "receiver", r.Name())
	}
	return d
}

// Run delivers until ctx ends.
func (d *Desk) Run(ctx context.Context) {
	if d == nil {
		return
	}
	d.sender.run(ctx)
}

// Observe takes in all alarms of a scope, which is a prefix of their keys. It never waits for a receiver.
func (d *Desk) Observe(scope string, alarms []model.Alarm) {
	if d == nil {
		return
	}
	for i := range alarms {
		alarms[i].What, alarms[i].Why, alarms[i].Try = clip(alarms[i].What, 300), clip(alarms[i].Why, 500), clip(alarms[i].Try, 300)
	}
	d.mu.Lock()
	due, changed := d.ledger.Observe(scope, alarms, d.o.Now(), d.o.Repeat)
	if changed {
		d.save()
	}
	d.mu.Unlock()
	for _, n := range due {
		d.o.Log.Warn("alarm", "state", string(n.State), "name", n.Name, "vm", n.VM, "host", string(n.Host), "what", n.What, "why", n.Why)
	}
	d.sender.put(due...)
}

// Counts of what was sent.
func (d *Desk) Counts() Counts {
	if d == nil {
		return Counts{}
	}
	d.sender.mu.Lock()
	defer d.sender.mu.Unlock()
	return d.sender.counts
}

// Facts tell the control plane that this process tells its own alarms.
func (d *Desk) Facts() *model.NotifyFacts {
	if d == nil {
		return nil
	}
	c := d.Counts()
	return &model.NotifyFacts{Receivers: len(d.sender.lanes), Delivered: c.Delivered, Failed: c.Failed, Dropped: c.Dropped}
}

func (d *Desk) settled(notices ...model.Notice) {
	d.mu.Lock()
	defer d.mu.Unlock()
	changed := false
	for _, n := range notices {
		changed = d.ledger.Settled(n) || changed
	}
	if changed {
		d.save()
	}
}

// save leaves out what a repetition does not need; the file is bounded.
func (d *Desk) save() {
	small := alarm.Ledger{Began: d.ledger.Began, Entries: make(map[string]*alarm.Entry, len(d.ledger.Entries))}
	for key, e := range d.ledger.Entries {
		kept := *e
		kept.Alarm.Why, kept.Alarm.Try = "", ""
		small.Entries[key] = &kept
	}
	if err := durable.WriteJSON(d.o.File, small); err != nil {
		d.o.Log.Warn("notifications_not_saved", "error", err)
	}
}

// Tried is what became of a test message at one receiver.
type Tried struct {
	Receiver string
	Took     time.Duration
	Err      error
}

// Test sends a message to each receiver, at the same time, and waits for all of them.
func Test(ctx context.Context, to []Receiver, from Source, who string, now time.Time) []Tried {
	out := make([]Tried, len(to))
	batch := Batch{Source: from, Notices: []model.Notice{{
		Alarm: model.Alarm{
			Key: "test", Name: "Test", What: "notifications arrive", Why: who + " asked for it; nothing is wrong", Try: "understudy status", Since: now,
		},
		State: model.AlarmTest, At: now,
	}}}
	var wg sync.WaitGroup
	for i, r := range to {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, sendLimit)
			defer cancel()
			began := time.Now()
			err := r.Send(ctx, batch)
			out[i] = Tried{r.Name(), time.Since(began), err}
		})
	}
	wg.Wait()
	return out
}
