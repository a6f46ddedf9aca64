package libvirtrpc

import (
	"context"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"understudy/internal/hypervisor"
	"understudy/internal/hypervisor/domainxml"
	"understudy/internal/model"
)

// Define implements hypervisor.Hypervisor.
func (c *Client) Define(ctx context.Context, xml string) (hypervisor.Domain, error) {
	if _, err := domainxml.Parse(xml); err != nil {
		return hypervisor.Domain{}, err
	}
	return call(ctx, c, "defining a domain", func(l *libvirt.Libvirt) (hypervisor.Domain, error) {
		dom, err := l.DomainDefineXMLFlags(xml, 0)
		if err != nil {
			return hypervisor.Domain{}, err
		}
		return describe(l, dom, nil)
	})
}

// Undefine implements hypervisor.Hypervisor. The TPM's state is kept as the firmware's variables are: to remove it is not
// ours.
func (c *Client) Undefine(ctx context.Context, uuid string) error {
	err := c.do(ctx, "undefining domain "+uuid, func(l *libvirt.Libvirt) error {
		dom, err := byUUID(l, uuid)
		if err != nil {
			return err
		}
		active, err := l.DomainIsActive(dom)
		if err != nil {
			return err
		}
		if active != 0 {
			return model.Fail(model.Conflict, nil, "the domain is active, so its definition stays").WithVM(dom.Name)
		}
		flags := libvirt.DomainUndefineCheckpointsMetadata | libvirt.DomainUndefineKeepNvram | libvirt.DomainUndefineManagedSave
		err = l.DomainUndefineFlags(dom, flags|libvirt.DomainUndefineKeepTpm)
		if code(err) == libvirt.ErrInvalidArg { // libvirt before 8.9 knows no such flag, and keeps it
			err = l.DomainUndefineFlags(dom, flags)
		}
		return err
	})
	if isKind(err, model.NotFound) {
		return nil
	}
	return err
}

// Start implements hypervisor.Hypervisor. It boots: memory that was saved by managedsave belongs to disks of another time.
func (c *Client) Start(ctx context.Context, uuid string) error {
	return c.do(ctx, "starting domain "+uuid, func(l *libvirt.Libvirt) error {
		dom, err := byUUID(l, uuid)
		if err != nil {
			return err
		}
		_, err = l.DomainCreateWithFlags(dom, uint32(libvirt.DomainStartForceBoot))
		if code(err) != libvirt.ErrOperationInvalid {
			return err
		}
		state, _, stateErr := state(l, dom)
		switch {
		case stateErr != nil:
			return stateErr
		case state == hypervisor.Crashed:
			return model.Fail(model.Conflict, err, "the guest crashed and its process is kept").WithVM(dom.Name).WithTry("virsh destroy " + dom.Name)
		case state.Active():
			return nil
		}
		return err
	})
}

// RefusedByHook creates a transient domain, paused, that a hook of libvirtd is to refuse, and says whether it did. One that comes
// to life is ended at once, and by libvirtd when we die first.
func (c *Client) RefusedByHook(ctx context.Context, xml string) (bool, error) {
	return call(ctx, c, "trying the start gate", func(l *libvirt.Libvirt) (bool, error) {
		dom, err := l.DomainCreateXML(xml, libvirt.DomainStartPaused|libvirt.DomainStartAutodestroy)
		if err == nil {
			return false, l.DomainDestroyFlags(dom, libvirt.DomainDestroyDefault)
		}
		if code(err) == libvirt.ErrHookScriptFailed {
			return true, nil
		}
		return false, err
	})
}

func state(l *libvirt.Libvirt, dom libvirt.Domain) (hypervisor.State, string, error) {
	s, reason, err := l.DomainGetState(dom, 0)
	if err != nil {
		return "", "", err
	}
	state, word := stateOf(s, reason)
	return state, word, nil
}

// Destroy implements hypervisor.Hypervisor. The answer to the call is not the proof: the domain is asked afterwards.
func (c *Client) Destroy(ctx context.Context, uuid string) error {
	what := "destroying domain " + uuid
	err := c.do(ctx, what, func(l *libvirt.Libvirt) error {
		dom, err := byUUID(l, uuid)
		if err != nil {
			return err
		}
		return l.DomainDestroyFlags(dom, libvirt.DomainDestroyDefault)
	})
	switch {
	case isKind(err, model.NotFound): // a transient one may be gone, and its name too
		return nil
	case err != nil && !isKind(err, model.NotRunning):
		return err
	}
	return poll(ctx, what, func() (bool, error) {
		gone, err := call(ctx, c, what, func(l *libvirt.Libvirt) (bool, error) {
			dom, err := byUUID(l, uuid)
			if err != nil {
				return false, err
			}
			active, err := l.DomainIsActive(dom)
			return active == 0, err
		})
		if isKind(err, model.NotFound) {
			return true, nil
		}
		return gone, err
	})
}

// Suspend implements hypervisor.Hypervisor.
func (c *Client) Suspend(ctx context.Context, uuid string) error {
	return c.change(ctx, "suspending domain "+uuid, uuid, hypervisor.Paused, (*libvirt.Libvirt).DomainSuspend)
}

// Resume implements hypervisor.Hypervisor.
func (c *Client) Resume(ctx context.Context, uuid string) error {
	return c.change(ctx, "resuming domain "+uuid, uuid, hypervisor.Running, (*libvirt.Libvirt).DomainResume)
}

// change does something that leads to the state to; being there already is success.
func (c *Client) change(ctx context.Context, what, uuid string, to hypervisor.State, f func(*libvirt.Libvirt, libvirt.Domain) error) error {
	return c.do(ctx, what, func(l *libvirt.Libvirt) error {
		dom, err := byUUID(l, uuid)
		if err != nil {
			return err
		}
		err = f(l, dom)
		if code(err) == libvirt.ErrOperationInvalid {
			if now, _, stateErr := state(l, dom); stateErr == nil && now == to {
				return nil
			}
		}
		return err
	})
}

// SetAutostart implements hypervisor.Hypervisor.
func (c *Client) SetAutostart(ctx context.Context, uuid string, on bool) error {
	value := int32(0)
	if on {
		value = 1
	}
	return c.do(ctx, "setting autostart of domain "+uuid, func(l *libvirt.Libvirt) error {
		dom, err := byUUID(l, uuid)
		if err != nil {
			return err
		}
		return l.DomainSetAutostart(dom, value)
	})
}

// PingGuest implements hypervisor.Hypervisor.
func (c *Client) PingGuest(ctx context.Context, uuid string, timeout time.Duration) error {
	what := "asking the guest agent of domain " + uuid
	if err := c.requireAgent(ctx, what, uuid); err != nil {
		return err
	}
	return c.do(ctx, what, func(l *libvirt.Libvirt) error {
		dom, err := byUUID(l, uuid)
		if err != nil {
			return err
		}
		_, err = l.QEMUDomainAgentCommand(dom, `{"execute":"guest-ping"}`, seconds(timeout), 0)
		return err
	})
}

// requireAgent fails with NotRunning or Unsupported when there can be no guest agent.
func (c *Client) requireAgent(ctx context.Context, what, uuid string) error {
	return c.do(ctx, what, func(l *libvirt.Libvirt) error {
		dom, err := byUUID(l, uuid)
		if err != nil {
			return err
		}
		if now, _, err := state(l, dom); err != nil {
			return err
		} else if !now.Active() {
			return model.Fail(model.NotRunning, nil, "%s: it is not running", what).WithVM(dom.Name)
		}
		xml, err := l.DomainGetXMLDesc(dom, 0)
		if err != nil {
			return err
		}
		parsed, err := domainxml.Parse(xml)
		if err != nil {
			return err
		}
		if !parsed.Agent {
			return model.Fail(model.Unsupported, nil, "%s: it has no channel org.qemu.guest_agent.0", what).WithVM(dom.Name)
		}
		return nil
	})
}

// seconds rounds up to what libvirt's agent timeouts count in; 0 and less would mean something else to it.
func seconds(d time.Duration) int32 {
	return int32(min(max((d+time.Second-1)/time.Second, 1), 3600))
}
