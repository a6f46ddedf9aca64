package restore

import (
	"github.com/beevik/etree"

	"understudy/internal/hypervisor/domainxml"
	"understudy/internal/model"
)

// isolate makes a description that was made to fit this host one of a copy that touches nothing of the VM's and reaches
// nobody: another identity, no network, no device of the host, no port, no file that the VM itself uses.
func isolate(xml, name, uuid, console, nvram string) (string, error) {
	dom, err := domainxml.Read(xml, "domain")
	if err != nil {
		return "", model.Fail(model.Refused, err, "the domain description cannot be used")
	}
	for tag, value := range map[string]string{"name": name, "uuid": uuid, "title": "Understudy test failover, removed by itself"} {
		e := dom.SelectElement(tag)
		if e == nil {
			e = dom.CreateElement(tag)
		}
		e.SetText(value)
	}
	for _, e := range dom.FindElements("./sysinfo/system/entry[@name='uuid']") {
		e.SetText(uuid)
	}
	for _, tag := range []string{"genid", "metadata"} {
		for _, e := range dom.SelectElements(tag) {
			dom.RemoveChild(e)
		}
	}
	if os := dom.SelectElement("os"); os != nil {
		if e := os.SelectElement("nvram"); e != nil {
			e.SetText(nvram)
		}
	}
	devices := dom.SelectElement("devices")
	if devices == nil {
		return "", model.Fail(model.Refused, nil, "the domain description has no devices")
	}
	for _, tag := range []string{"interface", "hostdev", "redirdev", "graphics", "filesystem", "shmem", "vsock", "tpm", "smartcard", "parallel"} {
		for _, e := range devices.SelectElements(tag) {
			devices.RemoveChild(e)
		}
	}
	isolateChars(devices, console)
	out, err := etree.NewDocumentWithRoot(dom).WriteToString()
	if err != nil {
		return "", model.Fail(model.Internal, err, "writing the domain description")
	}
	return out, nil
}

// isolateChars keeps the consoles, the first serial one in a file of ours, and the channels that QEMU serves by itself.
func isolateChars(devices *etree.Element, console string) {
	pty := func(e *etree.Element) {
		for _, tag := range []string{"source", "protocol", "log"} {
			for _, old := range e.SelectElements(tag) {
				e.RemoveChild(old)
			}
		}
		e.CreateAttr("type", "pty")
		e.RemoveAttr("tty")
	}
	file := func(e *etree.Element) {
		pty(e)
		e.CreateAttr("type", "file")
		e.CreateElement("source").CreateAttr("path", console)
	}
	serials := devices.SelectElements("serial")
	for i, e := range serials {
		if i == 0 {
			file(e)
		} else {
			pty(e)
		}
	}
	for i, e := range devices.SelectElements("console") {
		switch {
		case i == 0 && len(serials) > 0: // the same device as the first serial
			devices.RemoveChild(e)
		case i == 0:
			file(e)
		default:
			pty(e)
		}
	}
	for _, e := range devices.SelectElements("channel") {
		if e.SelectAttrValue("type", "") != "unix" {
			devices.RemoveChild(e)
			continue
		}
		for _, s := range e.SelectElements("source") { // libvirt makes a path from the copy's name
			e.RemoveChild(s)
		}
	}
	for _, e := range devices.SelectElements("rng") {
		if b := e.SelectElement("backend"); b != nil && b.SelectAttrValue("model", "") == "egd" {
			devices.RemoveChild(e)
		}
	}
}
