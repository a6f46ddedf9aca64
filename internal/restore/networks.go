package restore

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"

	"github.com/beevik/etree"

	"understudy/internal/model"
)

// attached is what an interface of a domain is connected to.
type attached struct {
	kind   string // "network", or "bridge", "direct": a device of the host
	name   string
	source *etree.Element
	attr   string
}

// attachments lists the interfaces that name something of their host. Others (user, ethernet, hostdev) name nothing.
func attachments(devices *etree.Element) []attached {
	var list []attached
	for _, e := range devices.SelectElements("interface") {
		kind := e.SelectAttrValue("type", "")
		attr, known := map[string]string{"network": "network", "bridge": "bridge", "direct": "dev"}[kind]
		source := e.SelectElement("source")
		if !known || source == nil || source.SelectAttr(attr) == nil {
			continue
		}
		list = append(list, attached{kind, source.SelectAttrValue(attr, ""), source, attr})
	}
	return list
}

// interfaces connects the VM to what the map says; a name that is not in it is kept. What libvirt had made of a network for the
// VM's last run (the port, the bridge) goes with it.
func (w *rewritten) interfaces(devices *etree.Element, networks map[string]string) {
	for _, a := range attachments(devices) {
		to, ok := networks[a.name]
		if !ok || to == a.name {
			continue
		}
		a.source.CreateAttr(a.attr, to)
		if a.kind == "network" {
			for _, old := range []string{"portid", "bridge", "portgroup"} {
				a.source.RemoveAttr(old)
			}
		}
		w.note("an interface is on the %s %s here, not on %s", a.kind, to, a.name)
	}
}

// Fit says whether a point can be started here, and what will be different; it changes nothing. It is asked before anything is
// claimed, so that a VM is not stopped for a start that cannot succeed.
func (r *Restorer) Fit(ctx context.Context, vm model.VMRef, point model.PointRef, networks map[string]string) ([]string, error) {
	p, err := r.points.Point(ctx, vm, point)
	if err != nil {
		return nil, err
	}
	disks := make([]model.Disk, 0, len(p.Disks))
	for _, d := range p.Disks {
		disks = append(disks, model.Disk{Target: d.Target, Format: model.FormatQCOW2, Path: filepath.Join(r.o.StateDir, "not-there-yet", d.Target)})
	}
	built, err := rewrite(p.DomainXML, vm, disks, networks)
	if err != nil {
		return nil, r.located(err, vm)
	}
	missing, notes, err := r.unreachable(ctx, built.xml)
	if err != nil {
		return nil, err
	}
	if len(missing) > 0 {
		return nil, r.fail(model.Refused, vm, nil, "the VM's %s is not here", missing[0]).
			WithTry("create it, or map it in the policy (failover: networks) of " + vm.Name)
	}
	return append(built.notes, notes...), nil
}

// unreachable is what the interfaces name and this host has not.
func (r *Restorer) unreachable(ctx context.Context, xml string) (missing, notes []string, err error) {
	doc := etree.NewDocument()
	if err := doc.ReadFromString(xml); err != nil {
		return nil, nil, model.Fail(model.Internal, err, "reading the domain description")
	}
	devices := doc.FindElement("/domain/devices")
	if devices == nil {
		return nil, nil, nil
	}
	var active []string
	asked := false
	for _, a := range attachments(devices) {
		if a.kind != "network" {
			if _, err := net.InterfaceByName(a.name); err != nil {
				missing = append(missing, fmt.Sprintf("%s %s", a.kind, a.name))
			}
			continue
		}
		if !asked {
			asked = true
			if active, err = r.hv.Networks(ctx); err != nil {
				return missing, append(notes, "the networks could not be looked at: "+err.Error()), ctx.Err()
			}
		}
		if !slices.Contains(active, a.name) {
			missing = append(missing, "active network "+a.name)
		}
	}
	return missing, notes, nil
}
