package restore

import (
	"os"

	"understudy/internal/hypervisor/domainxml"
	"understudy/internal/model"
)

// LeftBehind lists the disks that the last definition of a demoted VM ran from, where they can be read, and all images that
// are kept for rescue. They are read, never written.
func (r *Restorer) LeftBehind(vm model.VMRef) (disks []model.Disk, rescue []string, err error) {
	if !model.ValidUUID(vm.UUID) {
		return nil, nil, r.fail(model.InvalidArgument, vm, nil, "%q is not the UUID of a VM", vm.UUID)
	}
	var kept Kept
	if err := r.read(r.demoted(vm.UUID), &kept); err != nil {
		return nil, nil, err
	}
	if kept.XML == "" {
		return nil, kept.Disks, nil
	}
	xml, err := os.ReadFile(kept.XML)
	if err != nil {
		return nil, kept.Disks, nil //nolint:nilerr // without it nothing is known of them: a full copy will do
	}
	d, err := domainxml.Parse(string(xml))
	if err != nil {
		return nil, kept.Disks, nil //nolint:nilerr // the same
	}
	for _, disk := range d.Disks {
		if !disk.ReadOnly && disk.Problem == "" && exists(disk.Path) {
			disks = append(disks, disk.Disk)
		}
	}
	return disks, kept.Disks, nil
}
