// Package domainxml reads what Understudy needs to know from a libvirt domain's XML. Nothing in it is trusted: it comes from
// people, and on a standby from another host.
package domainxml

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/beevik/etree"

	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

// MaxSize bounds the XML that is parsed; libvirt's own limit for one string on the wire is 4 MiB.
const MaxSize = 4 << 20

const (
	maxPath = 4095 // PATH_MAX without its NUL

	// A domain has some hundred elements, and is ten deep.
	maxDepth = 100
	maxNodes = 100_000
)

// Domain is a parsed description. Sizes of disks are not in it.
type Domain struct {
	Name  string
	UUID  string // lower case; empty when the XML leaves it to libvirt
	Disks []hypervisor.Disk
	Agent bool // has a channel for the QEMU guest agent
	// OnCrash is what libvirt does when the guest panics.
	OnCrash string
}

// Read parses any of libvirt's XML documents whose root is the element named. Document types are refused: entities have no
// business here.
func Read(text, root string) (*etree.Element, error) {
	if len(text) > MaxSize {
		return nil, model.Fail(model.InvalidArgument, nil, "XML of %d bytes is larger than %d", len(text), MaxSize)
	}
	if err := bounded(text); err != nil {
		return nil, err
	}
	doc := etree.NewDocument()
	if err := doc.ReadFromString(text); err != nil {
		return nil, model.Fail(model.InvalidArgument, err, "the XML cannot be read")
	}
	e := doc.Root()
	if e == nil || e.Tag != root || e.Space != "" {
		return nil, model.Fail(model.InvalidArgument, nil, "the XML is not a <%s>", root)
	}
	return e, nil
}

// bounded looks at the XML before a tree is made of it: a small text can be a tree of hundreds of megabytes, or one so deep
// that writing it overflows the stack, which ends the process.
func bounded(text string) error {
	dec := xml.NewDecoder(strings.NewReader(text))
	for depth, nodes := 0, 0; ; {
		token, err := dec.RawToken()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return model.Fail(model.InvalidArgument, err, "the XML cannot be read")
		}
		switch t := token.(type) {
		case xml.Directive:
			return model.Fail(model.InvalidArgument, nil, "the XML has a document type")
		case xml.StartElement:
			depth++
			nodes += len(t.Attr)
		case xml.EndElement:
			depth--
		}
		if nodes++; nodes > maxNodes || depth > maxDepth {
			return model.Fail(model.InvalidArgument, nil, "the XML is deeper than %d or has more than %d parts", maxDepth, maxNodes)
		}
	}
}

// Parse reads a <domain>.
func Parse(description string) (Domain, error) {
	root, err := Read(description, "domain")
	if err != nil {
		return Domain{}, err
	}
	d := Domain{Name: text(root, "name"), UUID: strings.ToLower(text(root, "uuid")), OnCrash: text(root, "on_crash")}
	if d.OnCrash == "" {
		d.OnCrash = "destroy" // libvirt's default
	}
	if d.Name == "" || strings.ContainsAny(d.Name, "/\n\x00") {
		return Domain{}, model.Fail(model.InvalidArgument, nil, "the domain has no usable name")
	}
	if d.UUID != "" && !model.ValidUUID(d.UUID) {
		return Domain{}, model.Fail(model.InvalidArgument, nil, "%q is no UUID", d.UUID)
	}
	devices := root.SelectElement("devices")
	if devices == nil {
		return d, nil
	}
	for _, e := range devices.SelectElements("disk") {
		d.Disks = append(d.Disks, disk(e, len(d.Disks)))
	}
	for _, e := range devices.SelectElements("channel") {
		if t := e.SelectElement("target"); t != nil && strings.HasPrefix(t.SelectAttrValue("name", ""), "org.qemu.guest_agent.") {
			d.Agent = true
		}
	}
	return d, nil
}

func text(e *etree.Element, tag string) string {
	if c := e.SelectElement(tag); c != nil {
		return strings.TrimSpace(c.Text())
	}
	return ""
}

func attr(e *etree.Element, tag, name string) string {
	if c := e.SelectElement(tag); c != nil {
		return c.SelectAttrValue(name, "")
	}
	return ""
}

func disk(e *etree.Element, index int) hypervisor.Disk {
	device := e.SelectAttrValue("device", "disk")
	d := hypervisor.Disk{
		Disk: model.Disk{
			Target: attr(e, "target", "dev"),
			Format: model.DiskFormat(attr(e, "driver", "type")),
			Path:   attr(e, "source", "file"),
		},
		ReadOnly: device == "cdrom" || device == "floppy" || e.SelectElement("readonly") != nil,
	}
	switch attr(e, "driver", "cache") {
	case "none", "directsync":
		d.Direct = true
	}
	if !d.ReadOnly {
		d.Problem = problem(e, d, device, index)
	}
	return d
}

func problem(e *etree.Element, d hypervisor.Disk, device string, index int) string {
	kind := e.SelectAttrValue("type", "")
	source := e.SelectElement("source")
	switch {
	case index >= model.MaxDisks:
		return fmt.Sprintf("more than %d disks", model.MaxDisks)
	case !model.ValidTarget(d.Target):
		return fmt.Sprintf("target name %q cannot be used", d.Target)
	case device != "disk":
		return fmt.Sprintf("device type %s cannot be copied", device)
	case kind == "block":
		return fmt.Sprintf("lies on the block device %s; only image files are replicated", attr(e, "source", "dev"))
	case kind == "network":
		return fmt.Sprintf("lies on the network (%s); only image files are replicated", attr(e, "source", "protocol"))
	case kind == "volume":
		return "names a volume of a storage pool; give its file instead"
	case kind != "file":
		return fmt.Sprintf("source type %q cannot be copied", kind)
	case source == nil || d.Path == "":
		return "has no source file"
	case !filepath.IsAbs(d.Path) || len(d.Path) > maxPath:
		return "its source is not an absolute path"
	case e.SelectElement("shareable") != nil:
		return "is shareable: other VMs may write to it"
	case e.SelectElement("transient") != nil:
		return "is transient: its changes are thrown away"
	case e.SelectElement("encryption") != nil || source.SelectElement("encryption") != nil:
		return "is encrypted by libvirt: the copy would be plain"
	case source.SelectElement("slices") != nil:
		return "is a slice of a file"
	case d.Format != model.FormatQCOW2 && d.Format != model.FormatRaw:
		return fmt.Sprintf("format %q is unknown; qcow2 and raw are replicated", d.Format)
	}
	return ""
}
