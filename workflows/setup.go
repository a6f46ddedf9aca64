package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// generationTries bounds the search for a first generation above the floors that an earlier protection left behind on a
// host that was silent when it was removed: 1, 10, 100, … are tried.
const generationTries = 6

const maxWarnings = 20

// setup checks both sides and takes the VM. Whatever refuses, nothing is left behind.
func (p *protection) setup(ctx workflow.Context) error {
	primary, standby, err := p.preflight(ctx)
	if err != nil {
		return err
	}
	if err := p.begin(ctx); err != nil {
		return err
	}
	now := workflow.Now(ctx)
	p.st.Disks = primary.Disks
	p.warned(primary, standby)
	p.st.Admission = primary.Admission
	p.link(p.st.Primary, primary.Facts)
	p.link(p.st.Standby, standby.Facts)
	p.st.Unreplicated, p.st.Assumed = &now, true // until the first point nothing is safe
	p.st.StandbyReady, p.st.Accepted = true, true
	p.attach(ctx)
	return nil
}

func (p *protection) preflight(ctx workflow.Context) (primary, standby contract.PreflightOut, err error) {
	in := contract.PreflightIn{VM: p.vm, Policy: p.st.Policy}
	if !p.st.Accepted {
		in.Admission = &p.in.Spec.Admission
	}
	primary, err = contract.Preflight.Execute(ctx, p.queue(p.st.Primary), "check the VM and its primary", in)
	if err != nil {
		return primary, standby, surface(err, p.vm.Name, p.st.Primary)
	}
	in.Admission, in.Disks, in.NeedBytes = nil, primary.Disks, primary.NeedBytes
	standby, err = contract.Preflight.Execute(ctx, p.queue(p.st.Standby), "check the standby", in)
	return primary, standby, surface(err, p.vm.Name, p.st.Standby)
}

// warned keeps what the checks found.
func (p *protection) warned(checks ...contract.PreflightOut) {
	p.st.Warnings = nil
	for _, c := range checks {
		for _, w := range c.Warnings {
			if len(p.st.Warnings) < maxWarnings {
				p.st.Warnings = append(p.st.Warnings, clip(w))
			}
		}
	}
}

// begin writes the record (a Conflict is somebody else's VM: nothing of ours to undo), then makes both hosts know the
// generation. A host may still hold the floor of an earlier protection; numbers are never re-used, so a higher one is tried.
func (p *protection) begin(ctx workflow.Context) error {
	var last error
	for try, g := 0, model.Generation(1); try < generationTries; try, g = try+1, g*10 {
		p.st.Generation, p.st.Claimed = g, g
		in := contract.PermitIn{Fence: p.fence(), Host: p.st.Primary, Attempt: p.id()}
		begun, err := contract.BeginRecord.Execute(ctx, contract.ControlQueue, "generation record", in)
		if err != nil {
			return surface(err, p.vm.Name, p.st.Primary)
		}
		p.st.Grantor = begun.Grantor
		if err = p.sealBoth(ctx); err == nil {
			return nil
		}
		last = err
		free, cancel := workflow.NewDisconnectedContext(ctx)
		_, dropErr := contract.DropRecord.Execute(free, contract.ControlQueue, "undo the generation record", p.fence())
		cancel()
		if dropErr != nil {
			p.log.Warn("the generation record could not be dropped", "error", dropErr)
		}
		if kindOf(err) != model.StaleGeneration || dropErr != nil {
			return err
		}
	}
	return last
}

func (p *protection) sealBoth(ctx workflow.Context) error {
	for _, h := range []model.HostID{p.st.Primary, p.st.Standby} {
		in := contract.SealIn{Fence: p.fence(), Attempt: p.id(), FloorOnly: true}
		if _, err := contract.Seal.Execute(ctx, p.queue(h), fmt.Sprintf("floor %d on %s", p.st.Generation, h), in); err != nil {
			return surface(err, p.vm.Name, h)
		}
	}
	return nil
}

func (p *protection) id() string { return contract.ProtectID(p.vm.UUID) }

// attach makes both hosts' watches tell us when they fall silent. A watch that does not exist yet is started by its agent
// and then knows nothing of us: the alert says so, and it is attached to later.
func (p *protection) attach(ctx workflow.Context) {
	p.attachTo(ctx, p.st.Primary)
	p.attachTo(ctx, p.st.Standby)
}

func (p *protection) attachTo(ctx workflow.Context, h model.HostID) {
	if err := contract.SigAttach.SendExternal(ctx, contract.HostWatchID(h), contract.AttachIn{VMUUID: p.vm.UUID}).Get(ctx, nil); err != nil {
		p.alert(ctx, unwatchedAlert(h), "nobody watches whether "+string(h)+" lives: "+sentence(err), "understudy hosts")
		return
	}
	p.clear(unwatchedAlert(h))
}

// attachAgain tries what attach could not do: a protection may be recovered before the agent of a host has its watch started.
func (p *protection) attachAgain(ctx workflow.Context) {
	for _, h := range []model.HostID{p.st.Primary, p.st.Standby} {
		if p.alertAt(unwatchedAlert(h)) >= 0 && since(ctx, attachMissing) {
			p.attachTo(ctx, h)
		}
	}
}

// retire ends the protection: what cannot be removed because a host is silent is listed, not waited for.
func (p *protection) retire(ctx workflow.Context) error {
	free, cancel := workflow.NewDisconnectedContext(ctx)
	defer cancel()
	out := &contract.UnprotectOut{Leftovers: []string{}}
	purge := p.unprotect.PurgeReplica
	for _, h := range []model.HostID{p.st.Primary, p.st.Standby} {
		in := contract.RetireIn{VM: p.vm, PurgeReplica: purge && h == p.st.Standby}
		got, err := retireOptions().Execute(free, p.queue(h), "remove our marks", in)
		out.Leftovers = append(out.Leftovers, got.Leftovers...)
		if err != nil {
			out.Leftovers = append(out.Leftovers, fmt.Sprintf("everything on %s: %s", h, sentence(err)))
		}
	}
	if _, err := contract.DropRecord.Execute(free, contract.ControlQueue, "forget the generation record", p.fence()); err != nil {
		out.Leftovers = append(out.Leftovers, "the generation record: "+sentence(err))
	}
	for _, h := range []model.HostID{p.st.Primary, p.st.Standby} {
		done := contract.SigDetach.SendExternal(free, contract.HostWatchID(h), contract.AttachIn{VMUUID: p.vm.UUID})
		if err := done.Get(free, nil); err != nil {
			p.log.Warn("a host watch could not be told", "host", h, "error", err)
		}
	}
	p.retired = out
	return workflow.Await(free, func() bool { return workflow.AllHandlersFinished(free) })
}

// A person waits for unprotect, so that a dead host may not hold it for minutes.
func retireOptions() contract.Activity[contract.RetireIn, contract.RetireOut] {
	a := contract.Retire
	a.Options.ScheduleToCloseTimeout = 150 * time.Second
	return a
}
