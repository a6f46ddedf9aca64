package restore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/beevik/etree"

	"understudy/internal/hypervisor/domainxml"
	"understudy/internal/model"
)

// rewritten is a domain's description made to fit this host.
type rewritten struct {
	xml   string
	name  string
	notes []string // what differs from the VM as it was
}

func (w *rewritten) note(format string, args ...any) {
	w.notes = append(w.notes, fmt.Sprintf(format, args...))
}

// rewrite points a description's replicated disks at the overlays and takes out what cannot be had here. Everything it does
// not know is kept as it is.
func rewrite(xml string, vm model.VMRef, disks []model.Disk, networks map[string]string) (rewritten, error) {
	var w rewritten
	dom, err := domainxml.Read(xml, "domain")
	if err != nil {
		return w, model.Fail(model.Refused, err, "the point's domain description cannot be used")
	}
	if uuid := text(dom, "uuid"); !strings.EqualFold(uuid, vm.UUID) {
		return w, model.Fail(model.Refused, nil, "the point's domain description is of another VM (%q)", uuid)
	}
	if w.name = text(dom, "name"); w.name == "" {
		return w, model.Fail(model.Refused, nil, "the point's domain description has no name")
	}
	devices := dom.SelectElement("devices")
	if devices == nil {
		return w, model.Fail(model.Refused, nil, "the point's domain description has no devices")
	}
	dom.RemoveAttr("id")
	if err := w.boot(dom); err != nil {
		return w, err
	}
	if err := w.disks(devices, disks); err != nil {
		return w, err
	}
	w.devices(devices)
	w.interfaces(devices, networks)
	out, err := etree.NewDocumentWithRoot(dom).WriteToString()
	if err != nil {
		return w, model.Fail(model.Internal, err, "writing the domain description")
	}
	w.xml = out
	return w, nil
}

// boot looks for the files that the domain boots from. Without them a start would fail later with less to say.
func (w *rewritten) boot(dom *etree.Element) error {
	os := dom.SelectElement("os")
	if os == nil {
		return nil
	}
	for _, tag := range []string{"kernel", "initrd", "dtb", "loader"} {
		if path := text(os, tag); path != "" && !exists(path) {
			return model.Fail(model.Refused, nil, "the VM boots from the %s %s, which is not on this host", tag, path).
				WithTry("copy " + path + " here from the primary")
		}
	}
	if path := text(os, "nvram"); path != "" && !exists(path) {
		w.note("the UEFI variables (%s) are not here: they begin anew from their template", path)
	}
	return nil
}

// disks rewrites every <disk>.
func (w *rewritten) disks(devices *etree.Element, disks []model.Disk) error {
	ours := make(map[string]model.Disk, len(disks))
	for _, d := range disks {
		ours[d.Target] = d
	}
	seen := map[string]bool{}
	for _, e := range devices.SelectElements("disk") {
		target := ""
		if t := e.SelectElement("target"); t != nil {
			target = t.SelectAttrValue("dev", "")
		}
		if target == "" || seen[target] {
			return model.Fail(model.Refused, nil, "the point's domain description names the disk %q twice or not at all", target)
		}
		seen[target] = true
		if d, ok := ours[target]; ok {
			repoint(e, d)
			continue
		}
		w.local(devices, e, target)
	}
	for _, d := range disks {
		if seen[d.Target] {
			continue
		}
		bus, ok := map[string]string{"vd": "virtio", "sd": "scsi"}[d.Target[:min(2, len(d.Target))]]
		if !ok {
			return model.Fail(model.Refused, nil, "disk %s is part of the point, but not of its domain description", d.Target)
		}
		e := devices.CreateElement("disk")
		e.CreateAttr("device", "disk")
		repoint(e, d)
		t := e.CreateElement("target")
		t.CreateAttr("dev", d.Target)
		t.CreateAttr("bus", bus)
		w.note("disk %s was attached to the running VM only: it is now part of the definition, on bus %s", d.Target, bus)
	}
	return nil
}

// repoint makes a replicated disk the overlay, whatever it was. What described its old image goes: source, chain, mirror,
// encryption and login of it. Serial, alias, address, boot order and limits stay.
func repoint(e *etree.Element, d model.Disk) {
	for _, tag := range []string{"source", "backingStore", "mirror", "encryption", "auth", "transient", "backenddomain"} {
		for _, old := range e.SelectElements(tag) {
			e.RemoveChild(old)
		}
	}
	e.CreateAttr("type", "file")
	driver := e.SelectElement("driver")
	if driver == nil {
		driver = e.CreateElement("driver")
	}
	driver.CreateAttr("name", "qemu")
	driver.CreateAttr("type", string(d.Format))
	source := etree.NewElement("source")
	source.CreateAttr("file", d.Path)
	e.InsertChildAt(driver.Index()+1, source)
}

// local decides about a disk that is not replicated: kept when its file is here; else a removable medium is ejected and
// anything else taken out, because libvirt would not start the VM.
func (w *rewritten) local(devices, e *etree.Element, target string) {
	source := e.SelectElement("source")
	device := e.SelectAttrValue("device", "disk")
	removable := device == "cdrom" || device == "floppy"
	if source == nil && removable {
		return
	}
	what := "its source"
	if source != nil {
		if path := firstNonEmpty(source.SelectAttrValue("file", ""), source.SelectAttrValue("dev", "")); path != "" {
			what = path
			if (removable || e.SelectElement("readonly") != nil) && exists(path) {
				return
			}
		}
	}
	if !removable {
		devices.RemoveChild(e)
		w.note("disk %s was left out: it is not replicated and %s is not here", target, what)
		return
	}
	e.RemoveChild(source)
	for _, tag := range []string{"backingStore", "auth", "encryption"} {
		if old := e.SelectElement(tag); old != nil {
			e.RemoveChild(old)
		}
	}
	e.CreateAttr("type", "file")
	w.note("%s %s was ejected: %s is not here", device, target, what)
}

// devices looks at what is not a disk.
func (w *rewritten) devices(devices *etree.Element) {
	if e := devices.SelectElement("emulator"); e != nil && !exists(strings.TrimSpace(e.Text())) {
		w.note("the emulator %s is not here: libvirt's default is used", strings.TrimSpace(e.Text()))
		devices.RemoveChild(e)
	}
	if devices.SelectElement("tpm") != nil {
		w.note("the state of the virtual TPM is not replicated: it begins anew")
	}
	for _, tag := range []string{"hostdev", "filesystem"} {
		if n := len(devices.SelectElements(tag)); n > 0 {
			w.note("%d <%s> kept: what it names must be on this host", n, tag)
		}
	}
}

func text(e *etree.Element, tag string) string {
	if c := e.SelectElement(tag); c != nil {
		return strings.TrimSpace(c.Text())
	}
	return ""
}

func exists(path string) bool {
	if !filepath.IsAbs(path) {
		return false
	}
	_, err := os.Stat(path)
	return err == nil
}

func firstNonEmpty(list ...string) string {
	for _, s := range list {
		if s != "" {
			return s
		}
	}
	return ""
}

// located adds VM and host to a failure of the rewriting.
func (r *Restorer) located(err error, vm model.VMRef) error {
	var f *model.Failure
	if errors.As(err, &f) {
		return f.WithVM(vm.Name).WithHost(r.o.Host)
	}
	return err
}
