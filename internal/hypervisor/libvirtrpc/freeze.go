package libvirtrpc

import (
	"context"
	"errors"
	"strings"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"understudy/internal/model"
)

// freezing is a freeze that succeeded.
type freezing struct {
	count int32 // file systems
	took  time.Duration
}

// freeze freezes the guest's file systems. The agent's timeout is set before: without one, an agent that hangs blocks the call
// and every later one for ever. When it fails the guest is thawed again, because a late agent may still freeze it, or the
// error says that this could not be confirmed.
func (c *Client) freeze(ctx context.Context, what, uuid string, timeout time.Duration) (freezing, error) {
	if err := c.requireAgent(ctx, what, uuid); err != nil {
		if isKind(err, model.Unsupported) {
			err = model.Fail(model.QuiesceFailed, err, "%s: there is no guest agent to freeze it", what).
				WithTry("add the channel org.qemu.guest_agent.0 and install qemu-guest-agent, or set the policy not to freeze")
		}
		return freezing{}, err
	}
	err := c.do(ctx, what, func(l *libvirt.Libvirt) error {
		dom, err := byUUID(l, uuid)
		if err != nil {
			return err
		}
		_, err = l.DomainAgentSetResponseTimeout(dom, seconds(timeout), 0)
		return err
	})
	if err != nil {
		return freezing{}, err
	}
	start := time.Now()
	n, err := call(ctx, c, what, func(l *libvirt.Libvirt) (int32, error) {
		dom, err := byUUID(l, uuid)
		if err != nil {
			return 0, err
		}
		return l.DomainFsfreeze(dom, nil, 0)
	})
	if err == nil {
		return freezing{n, time.Since(start)}, nil
	}
	if isKind(err, model.Unreachable, model.QuiesceFailed) && !neverAsked(err) {
		if _, thawErr := c.thaw(ctx, uuid, timeout, 1); thawErr != nil {
			return freezing{}, model.Fail(model.QuiesceFailed, errors.Join(err, thawErr),
				"%s: the guest agent did not freeze it, and whether it is thawed is not known", what).WithTry("virsh domfsthaw " + uuid)
		}
	}
	if isKind(err, model.Unreachable, model.NotRunning, model.NotFound) {
		return freezing{}, err
	}
	return freezing{}, model.Fail(model.QuiesceFailed, err, "%s: the guest agent did not freeze it", what)
}

// neverAsked says that the agent did not get the call.
func neverAsked(err error) bool {
	var e libvirt.Error
	return errors.As(err, &e) && strings.Contains(e.Message, "not connected")
}

// thaw thaws the guest's file systems, also when ctx has ended, and tells how many it was. Thawing what is not frozen is fine.
func (c *Client) thaw(ctx context.Context, uuid string, timeout time.Duration, tries int) (int32, error) {
	var last error
	for range tries {
		try, cancel := aftercare(ctx, timeout+thawTime)
		n, err := call(try, c, "thawing domain "+uuid, func(l *libvirt.Libvirt) (int32, error) {
			dom, err := byUUID(l, uuid)
			if err != nil {
				return 0, err
			}
			return l.DomainFsthaw(dom, nil, 0)
		})
		cancel()
		if err == nil || isKind(err, model.NotRunning, model.NotFound) { // nothing is left to thaw
			return n, nil
		}
		last = err
		if ctx.Err() != nil && isKind(err, model.Unreachable) {
			break
		}
	}
	return 0, last
}
