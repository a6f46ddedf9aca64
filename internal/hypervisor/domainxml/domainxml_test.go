package domainxml_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/internal/hypervisor/domainxml"
	"understudy/internal/model"
)

func domain(devices string) string {
	return "<domain type='kvm'><name>web</name><uuid>0B6F5A2E-0000-4000-8000-000000000001</uuid><devices>" + devices + "</devices></domain>"
}

func TestEachDiskThatCannotBeCopiedSaysWhy(t *testing.T) {
	file := `<driver name='qemu' type='qcow2'/><source file='/d/a'/><target dev='vda'/>`
	for _, c := range []struct{ disk, problem string }{
		{`<disk type='file'>` + file + `</disk>`, ""},
		{`<disk type='file' device='disk'>` + file + `<backingStore type='file'><source file='/x'/></backingStore></disk>`, ""},
		{`<disk type='file'>` + file + `<shareable/></disk>`, "shareable"},
		{`<disk type='file'>` + file + `<transient/></disk>`, "transient"},
		{`<disk type='file'>` + file + `<encryption format='luks'/></disk>`, "encrypted"},
		{`<disk type='file' device='lun'>` + file + `</disk>`, "lun"},
		{`<disk>` + file + `</disk>`, "source type"},
		{`<disk type='file'><source file='/d/a'/><target dev='vda'/></disk>`, "format"},
		{`<disk type='file'><driver type='qcow2'/><source file='d/a'/><target dev='vda'/></disk>`, "absolute"},
		{`<disk type='file'><driver type='qcow2'/><target dev='vda'/></disk>`, "no source"},
		{`<disk type='file'><driver type='qcow2'/><source file='/d/a'/><target dev='../../etc'/></disk>`, "target name"},
		{`<disk type='file'><driver type='qcow2'/><source file='/d/a'/></disk>`, "target name"},
		{`<disk type='volume'><driver type='qcow2'/><source pool='p' volume='v'/><target dev='vda'/></disk>`, "volume"},
		{`<disk type='file' device='cdrom'><target dev='../x'/></disk>`, ""},
	} {
		d, err := domainxml.Parse(domain(c.disk))
		require.NoError(t, err, c.disk)
		require.Len(t, d.Disks, 1)
		if c.problem == "" {
			require.Empty(t, d.Disks[0].Problem, c.disk)
		} else {
			require.Contains(t, d.Disks[0].Problem, c.problem, c.disk)
		}
	}
}

func TestADomainIsReadOrRefused(t *testing.T) {
	d, err := domainxml.Parse(domain(`<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>`))
	require.NoError(t, err)
	require.Equal(t, "0b6f5a2e-0000-4000-8000-000000000001", d.UUID)
	require.True(t, d.Agent)
	var many strings.Builder
	for i := range model.MaxDisks + 1 {
		fmt.Fprintf(&many, `<disk type='file'><driver type='raw'/><source file='/d/%d'/><target dev='vd%d'/></disk>`, i, i)
	}
	d, err = domainxml.Parse(domain(many.String()))
	require.NoError(t, err)
	require.Empty(t, d.Disks[model.MaxDisks-1].Problem)
	require.NotEmpty(t, d.Disks[model.MaxDisks].Problem)
	for _, bad := range []string{
		"", "x", "<domain", "<network><name>x</name></network>", "<domain/>", "<domain><name>a/b</name></domain>",
		"<domain><name>a</name><uuid>../../x</uuid></domain>",
		"<!DOCTYPE domain SYSTEM 'file:///etc/passwd'><domain><name>a</name></domain>",
		"<!DOCTYPE d [<!ENTITY a 'aaaa'>]><domain><name>&a;</name></domain>",
		"<domain><name>a</name><!--" + strings.Repeat("x", domainxml.MaxSize) + "--></domain>",
	} {
		_, err := domainxml.Parse(bad)
		require.Error(t, err)
		require.Equal(t, model.InvalidArgument, model.KindOf(err))
	}
}

func FuzzParse(f *testing.F) {
	f.Add(domain(`<disk type='file'><driver type='qcow2'/><source file='/d/a'/><target dev='vda'/></disk>`))
	f.Add("<domain><name>a</name><devices><disk/><channel/></devices></domain>")
	f.Fuzz(func(t *testing.T, xml string) {
		d, err := domainxml.Parse(xml)
		if err != nil {
			return
		}
		require.NotEmpty(t, d.Name)
		require.True(t, d.UUID == "" || model.ValidUUID(d.UUID))
		for _, disk := range d.Disks {
			if disk.Problem == "" && !disk.ReadOnly {
				require.True(t, model.ValidTarget(disk.Target))
				require.True(t, strings.HasPrefix(disk.Path, "/"))
			}
		}
	})
}
