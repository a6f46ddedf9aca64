package snapshot

import (
	"context"
	"fmt"
	"strings"

	"understudy/internal/hypervisor/domainxml"
)

// Warnings says what of a VM is not part of a recovery point or makes its cycles dear: nothing that keeps it from being
// protected, but what a person wants to know before a failover, not after.
func (s *Source) Warnings(ctx context.Context, uuid string) ([]string, error) {
	dom, err := s.hv.Domain(ctx, uuid)
	if err != nil {
		return nil, err
	}
	xml, err := s.hv.XML(ctx, dom.VM.UUID)
	if err != nil {
		return nil, err
	}
	root, err := domainxml.Read(xml, "domain")
	if err != nil {
		return nil, err
	}
	var out []string
	for _, d := range dom.Disks {
		switch why := trackable(d.Disk); {
		case d.ReadOnly && d.Path != "":
			out = append(out, fmt.Sprintf("%s (%s) is not replicated: a failover starts without it unless the same file is on the standby", d.Target, d.Path))
		case !d.ReadOnly && d.Problem == "" && why != "":
			out = append(out, fmt.Sprintf("disk %s: %s", d.Target, why))
		}
	}
	for _, tag := range []string{"kernel", "initrd", "dtb"} {
		if e := root.FindElement("./os/" + tag); e != nil {
			out = append(out, fmt.Sprintf("the VM boots from the %s %s, which must be on the standby as well", tag, strings.TrimSpace(e.Text())))
		}
	}
	for _, w := range []struct{ path, what string }{
		{"./os/nvram", "the UEFI variables are not replicated: after a failover they begin anew from their template"},
		{"./devices/tpm", "the state of the virtual TPM is not replicated: after a failover it begins anew, and what is sealed with it is lost"},
		{"./devices/hostdev", "a device of the host is passed through: the standby must have the same one"},
		{"./devices/filesystem", "a folder of the host is shared with the VM: it is not replicated"},
	} {
		if root.FindElement(w.path) != nil {
			out = append(out, w.what)
		}
	}
	return out, nil
}
