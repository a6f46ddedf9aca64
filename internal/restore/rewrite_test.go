package restore

import (
	"strings"
	"testing"

	"understudy/internal/hypervisor/domainxml"
	"understudy/internal/model"
)

// Whatever the other host sends as a description, every replicated disk of what comes out is our overlay.
func FuzzRewrite(f *testing.F) {
	v := model.VMRef{Name: "db1", UUID: "11111111-2222-4333-8444-555555555555"}
	disks := []model.Disk{{Target: "vda", Format: model.FormatQCOW2, Path: "/state/replicas/x/active/g2/vda.qcow2"}}
	f.Add(`<domain><name>db1</name><uuid>` + v.UUID + `</uuid><devices><disk type='network'><source protocol='rbd' name='a'/><target dev='vda'/></disk></devices></domain>`)
	f.Add(`<domain><name>db1</name><uuid>` + v.UUID + `</uuid><devices><disk device='cdrom'><source file='/x'/><target dev='sda'/></disk></devices></domain>`)
	f.Fuzz(func(t *testing.T, xml string) {
		w, err := rewrite(xml, v, disks, nil)
		if err != nil {
			return
		}
		d, err := domainxml.Parse(w.xml)
		if err != nil {
			t.Skip() // libvirt refuses it as well
		}
		if !strings.EqualFold(d.UUID, v.UUID) {
			t.Fatalf("UUID %s", d.UUID)
		}
		n := 0
		for _, disk := range d.Disks {
			if disk.Target != "vda" {
				continue
			}
			if n++; n > 1 || disk.Path != disks[0].Path || disk.Format != model.FormatQCOW2 {
				t.Fatalf("disk %+v", disk)
			}
		}
		if n != 1 {
			t.Fatalf("%d disks vda in %s", n, w.xml)
		}
	})
}
