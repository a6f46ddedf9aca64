// Package leasetest has a CLOCK_BOOTTIME that a test turns by hand, for the packages whose code waits on a lease.Clock.
package leasetest

import (
	"context"
	"sync"
	"time"

	"understudy/internal/model"
)

// Clock is a lease.Clock that stands still until it is advanced.
type Clock struct {
	mu    sync.Mutex
	now   model.BootTime
	boot  string
	moved chan struct{}
}

// NewClock begins an hour into the boot of this id.
func NewClock(boot string) *Clock {
	return &Clock{now: model.BootTime(time.Hour), boot: boot, moved: make(chan struct{})}
}

// Now is the instant it was turned to.
func (c *Clock) Now() model.BootTime {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// BootID is the one of the last Boot.
func (c *Clock) BootID() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.boot
}

// Advance turns it forward and wakes who waits.
func (c *Clock) Advance(d time.Duration) {
	c.set(func() { c.now = c.now.Add(d) })
}

// Boot is a reboot of the host: another id, and an instant that says nothing about the ones before.
func (c *Clock) Boot(id string, at model.BootTime) {
	c.set(func() { c.boot, c.now = id, at })
}

func (c *Clock) set(do func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	do()
	close(c.moved)
	c.moved = make(chan struct{})
}

// Wait returns when it was turned past until.
func (c *Clock) Wait(ctx context.Context, until model.BootTime) error {
	for {
		c.mu.Lock()
		now, moved := c.now, c.moved
		c.mu.Unlock()
		if now >= until {
			return ctx.Err()
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
