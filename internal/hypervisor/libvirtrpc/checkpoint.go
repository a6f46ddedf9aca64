package libvirtrpc

import (
	"context"
	"errors"
	"strconv"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"understudy/internal/hypervisor"
	"understudy/internal/hypervisor/domainxml"
	"understudy/internal/model"
)

// Checkpoints implements hypervisor.Hypervisor.
func (c *Client) Checkpoints(ctx context.Context, uuid string) ([]hypervisor.Checkpoint, error) {
	return call(ctx, c, "listing the checkpoints of domain "+uuid, func(l *libvirt.Libvirt) ([]hypervisor.Checkpoint, error) {
		dom, err := byUUID(l, uuid)
		if err != nil {
			return nil, err
		}
		list, _, err := l.DomainListAllCheckpoints(dom, 1, uint32(libvirt.DomainCheckpointListTopological))
		if err != nil {
			return nil, err
		}
		out := make([]hypervisor.Checkpoint, 0, len(list))
		for _, cp := range list {
			xml, err := l.DomainCheckpointGetXMLDesc(cp, uint32(libvirt.DomainCheckpointXMLNoDomain))
			if code(err) == libvirt.ErrNoDomainCheckpoint { // deleted since
				continue
			}
			if err != nil {
				return nil, err
			}
			one, _, err := parseCheckpoint(xml)
			if err != nil {
				return nil, err
			}
			out = append(out, one)
		}
		return out, nil
	})
}

// parseCheckpoint also gives the dirty bytes by target, -1 where the XML tells none.
func parseCheckpoint(xml string) (hypervisor.Checkpoint, map[string]int64, error) {
	var cp hypervisor.Checkpoint
	root, err := domainxml.Read(xml, "domaincheckpoint")
	if err != nil {
		return cp, nil, err
	}
	if e := root.SelectElement("name"); e != nil {
		cp.Name = e.Text()
	}
	if e := root.FindElement("./parent/name"); e != nil {
		cp.Parent = e.Text()
	}
	if e := root.SelectElement("creationTime"); e != nil {
		if s, err := strconv.ParseInt(e.Text(), 10, 64); err == nil {
			cp.Created = time.Unix(s, 0).UTC()
		}
	}
	sizes := map[string]int64{}
	for _, e := range root.FindElements("./disks/disk") {
		target := e.SelectAttrValue("name", "")
		if e.SelectAttrValue("checkpoint", "") != "bitmap" {
			continue
		}
		cp.Disks = append(cp.Disks, target)
		sizes[target] = -1
		if n, err := strconv.ParseInt(e.SelectAttrValue("size", ""), 10, 64); err == nil && n >= 0 {
			sizes[target] = n
		}
	}
	return cp, sizes, nil
}

// DirtyBytes implements hypervisor.Hypervisor.
func (c *Client) DirtyBytes(ctx context.Context, uuid, checkpoint string) (map[string]int64, error) {
	what := "measuring what changed since checkpoint " + checkpoint
	return call(ctx, c, what, func(l *libvirt.Libvirt) (map[string]int64, error) {
		dom, err := byUUID(l, uuid)
		if err != nil {
			return nil, err
		}
		if now, _, err := state(l, dom); err != nil {
			return nil, err
		} else if !now.Active() {
			return nil, model.Fail(model.NotRunning, nil, "%s: the domain is not running", what).WithVM(dom.Name)
		}
		cp, err := l.DomainCheckpointLookupByName(dom, checkpoint, 0)
		if err != nil {
			return nil, err
		}
		xml, err := l.DomainCheckpointGetXMLDesc(cp, uint32(libvirt.DomainCheckpointXMLNoDomain|libvirt.DomainCheckpointXMLSize))
		if err != nil {
			return nil, err
		}
		_, sizes, err := parseCheckpoint(xml)
		if err != nil {
			return nil, err
		}
		for target, n := range sizes {
			if n < 0 {
				return nil, model.Fail(model.CheckpointLost, nil, "disk %s has no usable bitmap of checkpoint %s", target, checkpoint).WithVM(dom.Name)
			}
		}
		return sizes, nil
	})
}

// DeleteCheckpoint implements hypervisor.Hypervisor. What is left after a crash of QEMU differs: a bitmap that is in the file
// but in use can be deleted by libvirt while the VM runs; one that is absent makes libvirt refuse, and only the record is
// deleted; while the VM is off libvirt refuses too, and the bitmaps are taken out of the files.
func (c *Client) DeleteCheckpoint(ctx context.Context, uuid, name string) error {
	what := "deleting checkpoint " + name
	const gone, offline, whole = 1, 2, 3
	left, err := call(ctx, c, what, func(l *libvirt.Libvirt) (int, error) {
		dom, err := byUUID(l, uuid)
		if err != nil {
			return 0, err
		}
		now, _, err := state(l, dom)
		if err != nil {
			return 0, err
		}
		cp, err := l.DomainCheckpointLookupByName(dom, name, 0)
		switch {
		case code(err) == libvirt.ErrNoDomainCheckpoint && now.Active():
			return gone, nil
		case code(err) == libvirt.ErrNoDomainCheckpoint || err == nil && !now.Active():
			return offline, nil
		case err != nil:
			return 0, err
		}
		err = l.DomainCheckpointDelete(cp, 0)
		var e libvirt.Error
		if errors.As(err, &e) && isBitmapLost(e) {
			c.log.Warn("a bitmap of the checkpoint is gone, deleting the record alone", "domain", dom.Name, "checkpoint", name, "cause", e.Message)
			err = l.DomainCheckpointDelete(cp, libvirt.DomainCheckpointDeleteMetadataOnly)
		}
		if code(err) == libvirt.ErrNoDomainCheckpoint {
			err = nil
		}
		return whole, err
	})
	if isKind(err, model.NotFound) {
		return nil
	}
	if err != nil || left != offline {
		return err
	}
	// The bitmaps first: while the record is there, the next try comes here again.
	if err := c.removeBitmaps(ctx, uuid, name); err != nil {
		return err
	}
	return c.do(ctx, what, func(l *libvirt.Libvirt) error {
		dom, err := byUUID(l, uuid)
		if err != nil {
			return err
		}
		cp, err := l.DomainCheckpointLookupByName(dom, name, 0)
		if err == nil {
			err = l.DomainCheckpointDelete(cp, libvirt.DomainCheckpointDeleteMetadataOnly)
		}
		if code(err) == libvirt.ErrNoDomainCheckpoint {
			return nil
		}
		return err
	})
}

// removeBitmaps takes the bitmaps of that name out of the images of a domain that is off. QEMU's own lock guards against a
// start in between.
func (c *Client) removeBitmaps(ctx context.Context, uuid, name string) error {
	d, err := c.Domain(ctx, uuid)
	if err != nil {
		return err
	}
	for _, disk := range d.Disks {
		if disk.ReadOnly || disk.Problem != "" || disk.Format != model.FormatQCOW2 {
			continue
		}
		names, err := c.img.Bitmaps(ctx, disk.Path)
		if err != nil {
			return model.Fail(model.Internal, err, "the bitmaps of %s cannot be listed", disk.Path).WithVM(d.VM.Name)
		}
		for _, n := range names {
			if n != name {
				continue
			}
			if err := c.img.RemoveBitmap(ctx, disk.Path, name); err != nil {
				return model.Fail(model.Internal, err, "bitmap %s cannot be taken out of %s", name, disk.Path).WithVM(d.VM.Name)
			}
		}
	}
	return nil
}
