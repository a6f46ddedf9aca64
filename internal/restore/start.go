package restore

import (
	"context"
	"strings"
	"time"

	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

// pingTimeout bounds one question to the guest agent.
const pingTimeout = 2 * time.Second

// Start defines the VM from the point's description on the overlays of generation g, starts it and waits until libvirt says
// that it runs. A VM that runs from them already is success; one that runs from anything else is a Conflict. networks maps
// names of the VM's networks and bridges to those of this host.
func (r *Restorer) Start(ctx context.Context, vm model.VMRef, point model.PointRef, g model.Generation, networks map[string]string) (time.Time, error) {
	if err := r.check(vm, g); err != nil {
		return time.Time{}, err
	}
	p, err := r.points.Point(ctx, vm, point)
	if err != nil {
		return time.Time{}, err
	}
	disks, err := r.points.Activate(ctx, vm, point, Set(g))
	if err != nil {
		return time.Time{}, err
	}
	var rec started
	if err := r.read(r.restored(vm.UUID), &rec); err != nil {
		return time.Time{}, err
	}
	if rec.Generation != g {
		rec = started{VM: vm, Generation: g, Point: point}
	}
	dom, found, err := r.lookup(ctx, vm.UUID)
	if err != nil {
		return time.Time{}, err
	}
	if found && dom.State.Active() {
		if !runsFrom(dom, Set(g)) {
			return time.Time{}, r.fail(model.Conflict, vm, nil, "the VM runs here already, from other disks (%s)", paths(dom)).
				WithTry("understudy status " + vm.Name)
		}
		return r.running(ctx, vm, rec)
	}
	built, err := rewrite(p.DomainXML, vm, disks, networks)
	if err != nil {
		return time.Time{}, r.located(err, vm)
	}
	if rec, err = r.define(ctx, vm, built, rec, dom, found); err != nil {
		return time.Time{}, err
	}
	if err := r.hv.Start(ctx, vm.UUID); err != nil {
		return time.Time{}, err
	}
	return r.running(ctx, vm, rec)
}

// define replaces whatever definition of the VM is here. One that is not of this generation is kept for Dismantle.
func (r *Restorer) define(ctx context.Context, vm model.VMRef, built rewritten, rec started, dom hypervisor.Domain, found bool) (started, error) {
	if other, err := r.hv.Domain(ctx, built.name); err == nil && other.VM.UUID != vm.UUID {
		return rec, r.fail(model.Conflict, vm, nil, "another VM of the name %s is defined here (%s)", built.name, other.VM.UUID).
			WithTry("virsh domrename " + built.name + " OTHER-NAME")
	} else if err != nil && model.KindOf(err) != model.NotFound {
		return rec, err
	}
	rec.Notes, rec.StartedAt = built.notes, time.Time{}
	if found && rec.Previous == "" && !runsFrom(dom, Set(rec.Generation)) {
		var err error
		if rec.Previous, err = r.hv.XML(ctx, vm.UUID); err != nil {
			return rec, err
		}
	}
	// Before the definition goes: if we die in between, the record is the only copy of it.
	if err := r.write(r.restored(vm.UUID), rec); err != nil {
		return rec, err
	}
	if found { // with it goes the metadata of checkpoints whose bitmaps are in other images
		if err := r.hv.Undefine(ctx, vm.UUID); err != nil {
			return rec, err
		}
	}
	defined, err := r.hv.Define(ctx, built.xml)
	if err != nil {
		return rec, err
	}
	if defined.Autostart { // after a reboot of this host the VM may run elsewhere
		err = r.hv.SetAutostart(ctx, vm.UUID, false)
	}
	return rec, err
}

// running waits until the domain runs and records since when.
func (r *Restorer) running(ctx context.Context, vm model.VMRef, rec started) (time.Time, error) {
	if err := r.awaitRunning(ctx, vm); err != nil {
		return time.Time{}, err
	}
	if !rec.StartedAt.IsZero() {
		return rec.StartedAt, nil
	}
	rec.StartedAt = r.o.Now().UTC()
	return rec.StartedAt, r.write(r.restored(vm.UUID), rec)
}

// awaitRunning waits until libvirt says that a started domain runs.
func (r *Restorer) awaitRunning(ctx context.Context, vm model.VMRef) error {
	limit, cancel := context.WithTimeout(ctx, r.o.StartTimeout)
	defer cancel()
	for {
		dom, found, err := r.lookup(limit, vm.UUID)
		switch {
		case err != nil:
			return err
		case !found || !dom.State.Active():
			return r.fail(model.Internal, vm, nil, "the VM stopped right after its start (%s)", state(dom, found)).
				WithTry("virsh start --console " + vm.Name + ", or the log under /var/log/libvirt/qemu")
		case dom.State == hypervisor.Running:
			return nil
		}
		if err := r.wait(limit); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return r.fail(model.Internal, vm, nil, "the VM is %s and not running %s after its start", state(dom, found), r.o.StartTimeout)
		}
	}
}

// Confirm watches a started VM: running says that it ran the whole time, guestAgent that its agent answered meanwhile
// (which nothing requires), detail what else is worth knowing. The error is for a hypervisor that could not be asked.
func (r *Restorer) Confirm(ctx context.Context, vm model.VMRef, period time.Duration) (running, guestAgent bool, detail string, err error) {
	var rec started
	if err := r.read(r.restored(vm.UUID), &rec); err != nil {
		return false, false, "", err
	}
	end := time.Now().Add(period) // a duration of the process, not a date: the monotonic clock
	agent := true                 // worth asking
	for {
		dom, found, err := r.lookup(ctx, vm.UUID)
		switch {
		case err != nil && (ctx.Err() != nil || !time.Now().Before(end)):
			return false, guestAgent, "", err
		case err != nil: // libvirtd may be restarting; a VM does not end with it
		case dom.State != hypervisor.Running || !found:
			return false, guestAgent, join("the VM is "+state(dom, found), rec.Notes), nil
		case agent && !guestAgent:
			perr := r.hv.PingGuest(ctx, vm.UUID, pingTimeout)
			guestAgent = perr == nil
			agent = model.KindOf(perr) != model.Unsupported
		}
		if err == nil && !time.Now().Before(end) {
			return true, guestAgent, join("", rec.Notes), nil
		}
		if err := r.wait(ctx); err != nil {
			return false, guestAgent, "", err
		}
	}
}

func state(dom hypervisor.Domain, found bool) string {
	switch {
	case !found:
		return "not defined"
	case dom.Reason != "":
		return string(dom.State) + " (" + dom.Reason + ")"
	}
	return string(dom.State)
}

func paths(dom hypervisor.Domain) string {
	var list []string
	for _, d := range dom.Disks {
		if !d.ReadOnly {
			list = append(list, d.Path)
		}
	}
	return strings.Join(list, ", ")
}

func join(first string, notes []string) string {
	if first != "" {
		notes = append([]string{first}, notes...)
	}
	return strings.Join(notes, "; ")
}
