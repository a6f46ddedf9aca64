package libvirtrpc

import (
	"context"
	"encoding/hex"
	"fmt"
	"math"
	"strings"

	libvirt "github.com/digitalocean/go-libvirt"

	"understudy/internal/hypervisor"
	"understudy/internal/hypervisor/domainxml"
	"understudy/internal/model"
)

// Versions implements hypervisor.Hypervisor.
func (c *Client) Versions(ctx context.Context) (hypervisor.Versions, error) {
	return call(ctx, c, "asking libvirt for its version", func(l *libvirt.Libvirt) (hypervisor.Versions, error) {
		lib, err := l.ConnectGetLibVersion()
		if err != nil {
			return hypervisor.Versions{}, err
		}
		v := hypervisor.Versions{Libvirt: dotted(lib)}
		if qemu, err := l.ConnectGetVersion(); err == nil { // fails when no emulator is installed
			v.QEMU = dotted(qemu)
		}
		return v, nil
	})
}

func dotted(v uint64) string {
	return fmt.Sprintf("%d.%d.%d", v/1_000_000, v/1000%1000, v%1000)
}

// Domains implements hypervisor.Hypervisor.
func (c *Client) Domains(ctx context.Context) ([]hypervisor.Domain, error) {
	return c.list(ctx, runningSizes, nil)
}

// list describes all domains; other stands for the sizes of one that has none in what sizes gives.
func (c *Client) list(ctx context.Context, sizes func(*libvirt.Libvirt) (map[libvirt.UUID]map[string]size, error), other map[string]size) ([]hypervisor.Domain, error) {
	return call(ctx, c, "listing the domains", func(l *libvirt.Libvirt) ([]hypervisor.Domain, error) {
		list, _, err := l.ConnectListAllDomains(1, libvirt.ConnectListDomainsActive|libvirt.ConnectListDomainsInactive)
		if err != nil {
			return nil, err
		}
		known, err := sizes(l)
		if err != nil {
			return nil, err
		}
		out := make([]hypervisor.Domain, 0, len(list))
		for _, dom := range list {
			its, ok := known[dom.UUID]
			if !ok {
				its = other
			}
			d, err := describe(l, dom, its)
			if code(err) == libvirt.ErrNoDomain { // undefined since it was listed
				continue
			}
			if err != nil {
				return nil, err
			}
			out = append(out, d)
		}
		return out, nil
	})
}

// Domain implements hypervisor.Hypervisor.
func (c *Client) Domain(ctx context.Context, nameOrUUID string) (hypervisor.Domain, error) {
	return call(ctx, c, "looking at domain "+nameOrUUID, func(l *libvirt.Libvirt) (hypervisor.Domain, error) {
		dom, err := find(l, nameOrUUID)
		if err != nil {
			return hypervisor.Domain{}, err
		}
		return describe(l, dom, nil)
	})
}

// Look is Domain without the sizes of disks. It asks QEMU nothing, so it also answers for a VM whose QEMU stands still.
func (c *Client) Look(ctx context.Context, nameOrUUID string) (hypervisor.Domain, error) {
	return call(ctx, c, "looking at domain "+nameOrUUID, func(l *libvirt.Libvirt) (hypervisor.Domain, error) {
		dom, err := find(l, nameOrUUID)
		if err != nil {
			return hypervisor.Domain{}, err
		}
		return describe(l, dom, map[string]size{})
	})
}

// LookAll is Domains in the way of Look.
func (c *Client) LookAll(ctx context.Context) ([]hypervisor.Domain, error) {
	return c.list(ctx, func(*libvirt.Libvirt) (map[libvirt.UUID]map[string]size, error) { return nil, nil }, map[string]size{})
}

// XML implements hypervisor.Hypervisor.
func (c *Client) XML(ctx context.Context, uuid string) (string, error) {
	return call(ctx, c, "reading the XML of domain "+uuid, func(l *libvirt.Libvirt) (string, error) {
		dom, err := byUUID(l, uuid)
		if err != nil {
			return "", err
		}
		return l.DomainGetXMLDesc(dom, libvirt.DomainXMLSecure|libvirt.DomainXMLInactive)
	})
}

func find(l *libvirt.Libvirt, nameOrUUID string) (libvirt.Domain, error) {
	if model.ValidUUID(nameOrUUID) {
		dom, err := byUUID(l, nameOrUUID)
		if code(err) != libvirt.ErrNoDomain {
			return dom, err
		}
	}
	return l.DomainLookupByName(nameOrUUID)
}

func byUUID(l *libvirt.Libvirt, uuid string) (libvirt.Domain, error) {
	u, err := parseUUID(uuid)
	if err != nil {
		return libvirt.Domain{}, err
	}
	return l.DomainLookupByUUID(u)
}

func parseUUID(uuid string) (u libvirt.UUID, err error) {
	if !model.ValidUUID(uuid) {
		return u, model.Fail(model.InvalidArgument, nil, "%q is no UUID", uuid)
	}
	if _, err := hex.Decode(u[:], []byte(strings.ReplaceAll(uuid, "-", ""))); err != nil {
		return u, model.Fail(model.InvalidArgument, err, "%q is no UUID", uuid)
	}
	return u, nil
}

func ref(dom libvirt.Domain) model.VMRef {
	u := dom.UUID
	return model.VMRef{Name: dom.Name, UUID: fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])}
}

// size is what libvirt says of one disk.
type size struct{ capacity, allocated int64 }

// describe asks libvirt for all that a Domain tells. sizes are those of a running domain's disks by target, when they are
// known already: asking one by one waits for whoever holds the domain.
func describe(l *libvirt.Libvirt, dom libvirt.Domain, sizes map[string]size) (hypervisor.Domain, error) {
	d := hypervisor.Domain{VM: ref(dom)}
	state, reason, err := l.DomainGetState(dom, 0)
	if err != nil {
		return d, err
	}
	d.State, d.Reason = stateOf(state, reason)
	persistent, err := l.DomainIsPersistent(dom)
	if err != nil {
		return d, err
	}
	d.Persistent = persistent != 0
	if d.Persistent {
		auto, err := l.DomainGetAutostart(dom)
		if err != nil {
			return d, err
		}
		d.Autostart = auto != 0
	}
	xml, err := l.DomainGetXMLDesc(dom, 0) // the live one of an active domain: with hot-plugged disks
	if err != nil {
		return d, err
	}
	parsed, err := domainxml.Parse(xml)
	if err != nil {
		return d, err
	}
	d.Disks, d.OnCrash = parsed.Disks, parsed.OnCrash
	for i := range d.Disks {
		if err := measure(l, dom, &d.Disks[i], sizes); err != nil {
			return d, err
		}
	}
	return d, nil
}

func measure(l *libvirt.Libvirt, dom libvirt.Domain, disk *hypervisor.Disk, sizes map[string]size) error {
	if disk.Path == "" {
		return nil
	}
	got, known := sizes[disk.Target], sizes != nil
	if !known {
		allocated, capacity, _, err := l.DomainGetBlockInfo(dom, disk.Target, 0)
		switch n := code(err); {
		case err != nil && (n == libvirt.ErrOk || n == libvirt.ErrOperationTimeout):
			return err // the connection or whoever holds the domain, not the disk
		case err != nil && disk.Problem == "" && !disk.ReadOnly:
			disk.Problem = "its image cannot be read: " + err.Error()
			return nil
		}
		got = size{clip(capacity), clip(allocated)}
	}
	disk.Size, disk.Allocated = got.capacity, got.allocated
	if disk.Size > model.MaxDiskSize && disk.Problem == "" {
		disk.Problem = fmt.Sprintf("is larger than %d bytes", model.MaxDiskSize)
	}
	return nil
}

func clip(n uint64) int64 { return int64(min(n, math.MaxInt64)) }

func stateOf(state, reason int32) (hypervisor.State, string) {
	word := func(words ...string) string {
		if reason >= 0 && int(reason) < len(words) {
			return words[reason]
		}
		return "unknown"
	}
	switch libvirt.DomainState(state) {
	case libvirt.DomainRunning, libvirt.DomainBlocked:
		return hypervisor.Running, word("unknown", "booted", "migrated", "restored", "from snapshot", "unpaused",
			"migration canceled", "save canceled", "event wakeup", "crashed", "post-copy")
	case libvirt.DomainPaused:
		return hypervisor.Paused, word("unknown", "user", "migrating", "saving", "dumping", "I/O error", "watchdog",
			"from snapshot", "shutting down", "creating snapshot", "crashed", "starting up", "post-copy", "post-copy failed", "api error")
	case libvirt.DomainShutoff:
		return hypervisor.ShutOff, word("unknown", "shutdown", "destroyed", "crashed", "migrated", "saved", "failed",
			"from snapshot", "daemon")
	case libvirt.DomainCrashed:
		return hypervisor.Crashed, word("unknown", "panicked")
	case libvirt.DomainShutdown:
		return hypervisor.OtherRun, "shutting down"
	case libvirt.DomainPmsuspended:
		return hypervisor.OtherRun, "suspended by the guest"
	}
	return hypervisor.OtherRun, "unknown"
}
