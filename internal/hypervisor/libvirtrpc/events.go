package libvirtrpc

import (
	"context"
	"errors"
	"fmt"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"understudy/internal/model"
)

const (
	connectTime = 10 * time.Second // for connecting and subscribing
	firstPause  = 100 * time.Millisecond
	longPause   = 2 * time.Second
)

var errLost = errors.New("the connection was lost")

// Events implements hypervisor.Hypervisor.
func (c *Client) Events(ctx context.Context, reconnected func()) (<-chan model.Event, error) {
	if !c.working() {
		return nil, model.Fail(model.Unreachable, nil, "the connection to libvirtd was closed by us")
	}
	ctx, cancel := context.WithCancel(ctx)
	unhook := context.AfterFunc(c.ctx, cancel)
	out := make(chan model.Event)
	go func() {
		defer c.work.Done()
		defer close(out)
		defer cancel()
		defer unhook()
		pause := firstPause
		for ctx.Err() == nil {
			lived, err := c.listen(ctx, reconnected, out)
			if ctx.Err() != nil {
				return
			}
			if lived {
				pause = firstPause
			}
			c.log.Warn("events of libvirtd are interrupted", "error", err, "retry_in", pause)
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			pause = min(2*pause, longPause)
		}
	}()
	return out, nil
}

// listen delivers events over one connection until it is lost; lived says that it was made.
func (c *Client) listen(ctx context.Context, reconnected func(), out chan<- model.Event) (lived bool, err error) {
	setup, done := context.WithTimeout(ctx, connectTime)
	defer done()
	k, err := open(setup, c.socket)
	if err != nil {
		return false, err
	}
	defer k.close() // ends go-libvirt's goroutines too
	stop := context.AfterFunc(setup, k.close)
	// The subscriptions end after the connection: go-libvirt makes a call to end one, and that may hang.
	subscribed, unsubscribe := context.WithCancel(context.WithoutCancel(ctx))
	end := func(ch <-chan any) {
		k.close()
		unsubscribe()
		for range ch { // go-libvirt waits for its receiver without end
		}
	}
	defer unsubscribe()
	lifecycle, err := k.rpc.SubscribeEvents(subscribed, libvirt.DomainEventIDLifecycle, nil)
	if err != nil {
		return false, err
	}
	defer end(lifecycle)
	ioErrors, err := k.rpc.SubscribeEvents(subscribed, libvirt.DomainEventIDIoErrorReason, nil)
	if err != nil {
		return false, err
	}
	defer end(ioErrors)
	watchdogs, err := k.rpc.SubscribeEvents(subscribed, libvirt.DomainEventIDWatchdog, nil)
	if err != nil {
		return false, err
	}
	defer end(watchdogs)
	if !stop() {
		return false, fmt.Errorf("libvirtd did not take the subscriptions: %w", context.Cause(setup))
	}
	if reconnected != nil {
		reconnected()
	}
	for {
		var raw any
		ok := true
		select {
		case raw, ok = <-lifecycle:
		case raw, ok = <-ioErrors:
		case raw, ok = <-watchdogs:
		case <-k.sock.dead:
			return true, errLost
		case <-ctx.Done():
			return true, ctx.Err()
		}
		if !ok {
			return true, errLost
		}
		e, told := translate(raw)
		if !told {
			continue
		}
		e.At = time.Now().UTC()
		select {
		case out <- e:
		case <-ctx.Done():
			return true, ctx.Err()
		}
	}
}

// translate makes a model.Event of one of libvirt's; told is false for what is of no interest.
func translate(raw any) (e model.Event, told bool) {
	switch m := raw.(type) {
	case *libvirt.DomainEventCallbackLifecycleMsg:
		kind, detail, ok := lifecycleKind(libvirt.DomainEventType(m.Msg.Event), m.Msg.Detail)
		return model.Event{VM: ref(m.Msg.Dom), Kind: kind, Detail: detail}, ok
	case *libvirt.DomainEventCallbackIOErrorReasonMsg:
		return ioError(m.Msg), true
	case *libvirt.DomainEventCallbackWatchdogMsg:
		action := pick(m.Msg.Action, "none", model.ActionPause, "reset", model.ActionPoweroff, model.ActionShutdown, "debug", "inject-nmi")
		return model.Event{VM: ref(m.Msg.Dom), Kind: model.EventWatchdog, Detail: "the watchdog fired: " + action, Action: action}, true
	}
	return e, false
}

// ioError keeps the one reason that libvirt tells apart: no space. Without a pause the guest was told, and runs on.
func ioError(m libvirt.DomainEventIOErrorReasonMsg) model.Event {
	e := model.Event{VM: ref(m.Dom), Kind: model.EventIOError, Reason: m.Reason, Action: "none"}
	switch libvirt.DomainEventIOErrorAction(m.Action) {
	case libvirt.DomainEventIoErrorPause:
		e.Action = model.ActionPause
	case libvirt.DomainEventIoErrorReport:
		e.Action = model.ActionReport
	}
	what := "I/O error"
	if m.Reason == model.ReasonNoSpace {
		what = "no space left"
	}
	e.Detail = what + " on " + m.SrcPath
	return e
}

// pick is the word of a number.
func pick(n int32, words ...string) string {
	if n >= 0 && int(n) < len(words) {
		return words[n]
	}
	return fmt.Sprintf("detail %d", n)
}

func lifecycleKind(event libvirt.DomainEventType, detail int32) (model.EventKind, string, bool) {
	word := func(words ...string) string { return pick(detail, words...) }
	switch event {
	case libvirt.DomainEventStarted:
		return model.EventStarted, word("booted", "migrated", "restored", "from snapshot", "wakeup", "recreated"), true
	case libvirt.DomainEventSuspended:
		// The cause of an I/O error comes with an event of its own.
		return model.EventPaused, word("paused", "migrated", "I/O error", "watchdog", "restored", "from snapshot", "api error", "post-copy", "post-copy failed"), true
	case libvirt.DomainEventPmsuspended:
		return model.EventPaused, "suspended by the guest", true
	case libvirt.DomainEventResumed:
		return model.EventResumed, word("unpaused", "migrated", "from snapshot", "post-copy", "post-copy failed"), true
	case libvirt.DomainEventStopped:
		detailWord := word("shutdown", "destroyed", "crashed", "migrated", "saved", "failed", "from snapshot", "recreated")
		switch libvirt.DomainEventStoppedDetailType(detail) {
		case libvirt.DomainEventStoppedCrashed, libvirt.DomainEventStoppedFailed:
			return model.EventCrashed, detailWord, true
		}
		return model.EventStopped, detailWord, true
	case libvirt.DomainEventCrashed:
		return model.EventPanicked, word("panicked", "crashloaded"), true
	}
	return "", "", false
}
