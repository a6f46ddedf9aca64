package restore

import (
	"context"
	"os"
	"path/filepath"

	"understudy/internal/durable"
	"understudy/internal/model"
)

// Dismantle undoes Materialize and Start of generation g: the VM that runs from its overlays is stopped, its definition
// goes, the one that stood here before comes back, the overlays go. A copy that runs from anything else is left alone.
func (r *Restorer) Dismantle(ctx context.Context, vm model.VMRef, g model.Generation) error {
	if err := r.check(vm, g); err != nil {
		return err
	}
	dom, found, err := r.lookup(ctx, vm.UUID)
	if err != nil {
		return err
	}
	if found && runsFrom(dom, Set(g)) {
		if err := r.hv.Destroy(ctx, vm.UUID); err != nil {
			return err
		}
		if err := r.hv.Undefine(ctx, vm.UUID); err != nil {
			return err
		}
		found = false
	}
	var rec started
	if err := r.read(r.restored(vm.UUID), &rec); err != nil {
		return err
	}
	if rec.Generation == g && rec.Previous != "" && !found {
		if _, err := r.hv.Define(ctx, rec.Previous); err != nil {
			return err
		}
	}
	if err := r.points.Deactivate(ctx, vm, Set(g)); err != nil {
		return err
	}
	if rec.Generation == g {
		return r.remove(r.restored(vm.UUID))
	}
	return nil
}

// Surrender stops the local copy and proves it gone: libvirt was asked after the order and says that there is no QEMU. Any
// error means that there is no proof.
func (r *Restorer) Surrender(ctx context.Context, vm model.VMRef) error {
	if !model.ValidUUID(vm.UUID) {
		return r.fail(model.InvalidArgument, vm, nil, "%q is not the UUID of a VM", vm.UUID)
	}
	dom, found, err := r.lookup(ctx, vm.UUID)
	if err != nil || !found {
		return err
	}
	if dom.State.Active() {
		if err := r.write(r.surrendered(vm.UUID), surrendered{VM: vm, At: r.o.Now().UTC()}); err != nil {
			return err
		}
		if err := r.hv.Destroy(ctx, vm.UUID); err != nil {
			return err
		}
	}
	if dom.Autostart { // or the next start of libvirtd brings it back; only now, because a copy that stands still lets nothing be set
		if err := r.hv.SetAutostart(ctx, vm.UUID, false); err != nil && model.KindOf(err) != model.NotFound {
			return err
		}
	}
	dom, found, err = r.lookup(ctx, vm.UUID)
	switch {
	case err != nil:
		return err
	case found && dom.State.Active():
		return r.fail(model.FenceUnconfirmed, vm, nil, "the VM is still %s after it was destroyed", state(dom, found))
	case found && dom.Autostart:
		return r.fail(model.FenceUnconfirmed, vm, nil, "the VM is off, but autostart is still on")
	}
	return nil
}

// TakeUp starts the copy that Surrender stopped, after the takeover was rolled back and the VM may run here again. A VM that
// was off for any other reason is left alone. It says whether it started one.
func (r *Restorer) TakeUp(ctx context.Context, vm model.VMRef) (bool, error) {
	if !model.ValidUUID(vm.UUID) {
		return false, r.fail(model.InvalidArgument, vm, nil, "%q is not the UUID of a VM", vm.UUID)
	}
	if err := r.Unpause(ctx, vm); err != nil { // a switchover may have got no further than the pause
		return false, err
	}
	var rec surrendered
	if err := r.read(r.surrendered(vm.UUID), &rec); err != nil || rec.At.IsZero() {
		return false, err
	}
	dom, found, err := r.lookup(ctx, vm.UUID)
	switch {
	case err != nil:
		return false, err
	case !found:
		return false, r.fail(model.NotFound, vm, nil, "the VM was stopped for a takeover and is not defined here any more").
			WithTry("understudy failover " + vm.Name)
	}
	began := !dom.State.Active()
	if err := r.hv.Start(ctx, vm.UUID); err != nil { // one that runs is success
		return false, err
	}
	return began, r.remove(r.surrendered(vm.UUID))
}

// Forget drops what is remembered of restores and surrenders of a VM that is no longer protected. Rescue copies stay.
func (r *Restorer) Forget(vm model.VMRef) error {
	if !model.ValidUUID(vm.UUID) {
		return r.fail(model.InvalidArgument, vm, nil, "%q is not the UUID of a VM", vm.UUID)
	}
	for _, record := range []string{r.surrendered(vm.UUID), r.pauseOf(vm.UUID)} {
		if err := r.remove(record); err != nil {
			return err
		}
	}
	return r.remove(r.restored(vm.UUID))
}

// Demote makes a former primary fit to be the standby: the local copy is stopped, its definition removed and kept aside as
// a file, its disks stay where they are as a rescue copy. Repeating it tells what was kept the first time.
func (r *Restorer) Demote(ctx context.Context, vm model.VMRef) (Kept, error) {
	if err := r.Surrender(ctx, vm); err != nil {
		return Kept{}, err
	}
	if err := r.remove(r.pauseOf(vm.UUID)); err != nil {
		return Kept{}, err
	}
	kept := Kept{VM: vm, Disks: []string{}}
	if err := r.read(r.demoted(vm.UUID), &kept); err != nil {
		return Kept{}, err
	}
	dom, found, err := r.lookup(ctx, vm.UUID)
	if err != nil || !found {
		return kept, err
	}
	xml, err := r.hv.XML(ctx, vm.UUID)
	if err != nil {
		return Kept{}, err
	}
	for _, d := range dom.Disks {
		if !d.ReadOnly {
			kept.add(d.Path)
		}
	}
	kept.VM, kept.XML, kept.At = vm, r.demotedXML(vm.UUID), r.o.Now().UTC()
	if err := os.MkdirAll(filepath.Dir(kept.XML), 0o700); err != nil {
		return Kept{}, r.fail(model.Internal, vm, err, "keeping the definition aside")
	}
	if err := durable.WriteFile(kept.XML, []byte(xml)); err != nil { // it may hold secrets: mode 0600
		return Kept{}, r.fail(model.Internal, vm, err, "keeping the definition aside")
	}
	if err := r.write(r.demoted(vm.UUID), kept); err != nil {
		return Kept{}, err
	}
	if err := r.hv.Undefine(ctx, vm.UUID); err != nil {
		return Kept{}, err
	}
	if err := r.remove(r.surrendered(vm.UUID)); err != nil {
		return Kept{}, err
	}
	return kept, r.remove(r.restored(vm.UUID))
}
