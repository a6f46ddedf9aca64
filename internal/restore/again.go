package restore

import (
	"context"
	"time"

	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

// Again starts a VM that died where it is defined, from its own disks, and waits until libvirt says that it runs. One that is
// paused by a failed write, or crashed and kept, is ended first: it answers no more.
func (r *Restorer) Again(ctx context.Context, vm model.VMRef) (time.Time, bool, error) {
	if !model.ValidUUID(vm.UUID) {
		return time.Time{}, false, r.fail(model.InvalidArgument, vm, nil, "%q is not the UUID of a VM", vm.UUID)
	}
	dom, found, err := r.lookup(ctx, vm.UUID)
	switch {
	case err != nil:
		return time.Time{}, false, err
	case !found:
		return time.Time{}, false, r.fail(model.NotFound, vm, nil, "the VM is not defined here any more").WithTry("understudy failover " + vm.Name)
	case dom.State == hypervisor.Running:
		return r.o.Now().UTC(), false, nil
	case dom.State.Active():
		if err := r.hv.Destroy(ctx, vm.UUID); err != nil {
			return time.Time{}, false, err
		}
	}
	if err := r.hv.Start(ctx, vm.UUID); err != nil {
		return time.Time{}, false, err
	}
	if err := r.awaitRunning(ctx, vm); err != nil {
		return time.Time{}, false, err
	}
	return r.o.Now().UTC(), true, nil
}
