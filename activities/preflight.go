package activities

import (
	"context"
	"fmt"
	"strings"

	"understudy/internal/contract"
	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

// preflight checks one side: the standby when the disks to be held are given, else the primary. It changes nothing, so a
// refusal leaves nothing behind.
func (h *Host) preflight(ctx context.Context, in contract.PreflightIn) (contract.PreflightOut, error) {
	if err := in.Policy.Validate(); err != nil {
		return contract.PreflightOut{}, toWire(err)
	}
	b := startBeat(ctx)
	defer b.end()
	out := contract.PreflightOut{VM: in.VM, Disks: []model.Disk{}, Warnings: []string{}, NeedBytes: in.NeedBytes}
	var err error
	if len(in.Disks) > 0 {
		out.Disks = in.Disks
		err = h.preflightStandby(ctx, in, &out)
	} else {
		err = h.preflightPrimary(ctx, in, &out)
	}
	if err != nil {
		return contract.PreflightOut{}, toWire(err)
	}
	out.Facts = h.Self.Facts(ctx)
	return out, nil
}

func (h *Host) preflightPrimary(ctx context.Context, in contract.PreflightIn, out *contract.PreflightOut) error {
	name := in.VM.UUID
	if name == "" {
		name = in.VM.Name
	}
	facts, domain, err := h.Snapshot.Admit(ctx, name)
	if err != nil {
		return err
	}
	refuse := func(kind model.Kind, format string, args ...any) *model.Failure {
		return model.Fail(kind, nil, format, args...).WithVM(facts.VM.Name).WithHost(h.ID)
	}
	switch {
	case in.VM.Name != "" && in.VM.Name != facts.VM.Name:
		return refuse(model.Conflict, "VM %s is called %q here, not %q", facts.VM.UUID, facts.VM.Name, in.VM.Name)
	case !domain.Persistent:
		return refuse(model.Unsupported, "the VM is transient: libvirt forgets it when it stops").
			WithTry("virsh dumpxml " + facts.VM.Name + " > vm.xml && virsh define vm.xml")
	}
	out.VM, out.Disks, out.Running = facts.VM, facts.Disks, facts.Running
	if !facts.Running {
		out.Warnings = append(out.Warnings, "the VM is not running; the first point is made when it runs")
	}
	warnings, err := h.Snapshot.Warnings(ctx, facts.VM.UUID)
	if err != nil {
		return err
	}
	out.Warnings = append(out.Warnings, warnings...)
	out.NeedBytes = allocated(domain, facts.Disks)
	for _, d := range facts.Disks {
		if d.Format == model.FormatRaw {
			out.Warnings = append(out.Warnings, fmt.Sprintf(
				"disk %s is raw, so every cycle reads all of it; qemu-img convert -O qcow2 makes it cheap", d.Target))
		}
	}
	return h.admitDemand(ctx, in, out)
}

// admitDemand asks whether the promise of a new VM can be kept beside those of the others. Nothing is asked of a link without a
// budget: nobody knows what it carries.
func (h *Host) admitDemand(ctx context.Context, in contract.PreflightIn, out *contract.PreflightOut) error {
	if in.Admission == nil {
		return nil
	}
	a, err := h.Shares.Admit(ctx, out.VM, in.Policy, *in.Admission)
	if err != nil || a == nil {
		return err
	}
	out.Admission = a
	said := fmt.Sprintf("the link of %s (%.3g MB/s, needed %.0f %% before and %.0f %% after): %s", h.ID, float64(a.Budget)/1e6, 100*a.Before, 100*a.After, a.Reason)
	if len(a.Others) > 0 {
		said += "; there are " + strings.Join(a.Others, ", ")
	}
	switch {
	case a.Verdict == "accept":
	case a.Verdict == "refuse" && !in.Admission.Force:
		return model.Fail(model.Refused, nil, "%s", said).WithVM(out.VM.Name).WithHost(h.ID).
			WithTry("a longer --rpo, tier bronze, another standby or more --link-budget of the agent; --force protects all the same")
	default:
		a.Forced = a.Verdict == "refuse"
		out.Warnings = append(out.Warnings, said)
	}
	return nil
}

func allocated(d hypervisor.Domain, disks []model.Disk) int64 {
	wanted := map[string]bool{}
	for _, k := range disks {
		wanted[k.Target] = true
	}
	var sum int64
	for _, k := range d.Disks {
		if wanted[k.Target] {
			sum += k.Allocated
		}
	}
	return sum
}

func (h *Host) preflightStandby(ctx context.Context, in contract.PreflightIn, out *contract.PreflightOut) error {
	if err := in.Policy.RefuseAtRest(in.VM.Name, h.ID, h.Self.AtRest()); err != nil {
		return err
	}
	if err := h.noClash(ctx, in.VM, out); err != nil {
		return err
	}
	free, _, err := h.Store.Usage()
	if err != nil {
		return model.Fail(model.Internal, err, "cannot ask for the free space of the store").WithHost(h.ID)
	}
	held, err := h.held(ctx, in.VM)
	if err != nil {
		return err
	}
	if need := max(in.NeedBytes-held, 0) + h.Reserve; free < need {
		return model.Fail(model.TargetFull, nil, "the store has %s free and needs %s: %s of data and a reserve of %s",
			mib(free), mib(need), mib(max(in.NeedBytes-held, 0)), mib(h.Reserve)).
			WithVM(in.VM.Name).WithHost(h.ID).WithTry("free space under the agent's --state-dir, or protect to another host")
	}
	return nil
}

// noClash: a copy that runs here, or another VM of that name, would make a failover impossible or unsafe.
func (h *Host) noClash(ctx context.Context, vm model.VMRef, out *contract.PreflightOut) error {
	domains, err := h.Domains.Domains(ctx)
	if err != nil {
		return err
	}
	for _, d := range domains {
		switch {
		case d.VM.UUID == vm.UUID && d.State.Active():
			return model.Fail(model.Conflict, nil, "a VM with the same UUID runs on the standby").
				WithVM(vm.Name).WithHost(h.ID).WithTry("virsh destroy " + d.VM.Name + " on " + string(h.ID) + ", if that copy is not the one to keep")
		case d.VM.UUID == vm.UUID:
			out.Warnings = append(out.Warnings, fmt.Sprintf("%s has a definition of this VM, which a failover will replace", h.ID))
		case d.VM.Name == vm.Name:
			return model.Fail(model.Conflict, nil, "another VM on the standby has the same name (UUID %s)", d.VM.UUID).
				WithVM(vm.Name).WithHost(h.ID).WithTry("virsh domrename on " + string(h.ID))
		}
	}
	return nil
}

// held is what an earlier replica of the VM takes already.
func (h *Host) held(ctx context.Context, vm model.VMRef) (int64, error) {
	points, err := h.Store.Points(ctx, vm)
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, p := range points {
		if n, err := h.Store.BytesOnDisk(ctx, vm, p.PointRef); err == nil {
			sum += n
		}
	}
	return sum, nil
}

func mib(n int64) string { return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20)) }
