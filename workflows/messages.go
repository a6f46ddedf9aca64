package workflows

import (
	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/decide/mode"
	"understudy/internal/model"
)

// listen registers everything that reaches a protection, before anything blocks: an update that finds no handler fails.
func (p *protection) listen(ctx workflow.Context) error {
	workflow.Go(ctx, p.pump)
	if err := contract.QueryDescribe.Handle(ctx, func() (contract.DescribeOut, error) { return p.describe(), nil }); err != nil {
		return err
	}
	if err := contract.QueryExplain.Handle(ctx, func() (contract.ExplainOut, error) { return p.explain(), nil }); err != nil {
		return err
	}
	return p.handleUpdates(ctx)
}

// inbox is one signal channel with what is done for each message. Handlers only change state and wake the loop.
type inbox struct {
	ch   workflow.ReceiveChannel
	take func(ctx workflow.Context, c workflow.ReceiveChannel) bool // non-blocking; false when the channel is empty
}

func inboxOf[T any](ctx workflow.Context, s contract.Signal[T], do func(workflow.Context, T)) inbox {
	return inbox{s.Channel(ctx), func(ctx workflow.Context, c workflow.ReceiveChannel) bool {
		var v T
		if !c.ReceiveAsync(&v) {
			return false
		}
		do(ctx, v)
		return true
	}}
}

func (p *protection) inboxes(ctx workflow.Context) []inbox {
	return []inbox{
		inboxOf(ctx, contract.SigUtilization, p.onUtilization),
		inboxOf(ctx, contract.SigVMEvent, p.onVMEvent),
		inboxOf(ctx, contract.SigHostSuspect, p.onSuspect),
		inboxOf(ctx, contract.SigHostRecovered, p.onRecovered),
		inboxOf(ctx, contract.SigCrash, p.onCrash),
		inboxOf(ctx, contract.SigFailoverHeld, p.onHeld),
		inboxOf(ctx, contract.SigChildFinished, p.onChildFinished),
		inboxOf(ctx, contract.SigTestFinished, p.onTestFinished),
		inboxOf(ctx, contract.SigGrantorMoved, p.onGrantor),
		inboxOf(ctx, contract.SigForceCAN, func(workflow.Context, contract.None) { p.forceCAN = true }),
	}
}

// pump receives signals for as long as the run lives.
func (p *protection) pump(ctx workflow.Context) {
	sel := workflow.NewSelector(ctx)
	for _, box := range p.inboxes(ctx) {
		sel.AddReceive(box.ch, func(c workflow.ReceiveChannel, _ bool) {
			box.take(ctx, c)
			p.wake = true
		})
	}
	for {
		sel.Select(ctx)
	}
}

// drain handles what has arrived and was not received yet.
func (p *protection) drain(ctx workflow.Context) {
	for _, box := range p.inboxes(ctx) {
		for box.take(ctx, box.ch) {
			p.wake = true
		}
	}
}

func (p *protection) onUtilization(ctx workflow.Context, in contract.UtilizationIn) {
	p.observed(ctx, in.Observation)
}

func (p *protection) onVMEvent(ctx workflow.Context, in contract.VMEventIn) {
	if in.Host != p.st.Primary {
		return // a copy that is being started or stopped elsewhere
	}
	if in.Event.Kind == model.EventIOError {
		p.alert(ctx, contract.AlertIOError, "the storage of "+string(in.Host)+" fails the VM: "+in.Event.Detail, "virsh domblkerror "+p.vm.Name)
	}
	switch mode.OnEvent(in.Event) {
	case mode.DeedRecover:
		p.vmGone(ctx, in)
	case mode.DeedBack:
		p.vmIsBack(ctx)
	case mode.DeedOff:
		p.st.Off = "the VM was shut down"
	case mode.DeedPaused:
		if p.switchingOver() {
			return
		}
		p.alert(ctx, contract.AlertVMPaused, "the VM is paused: "+in.Event.Detail, "virsh resume "+p.vm.Name)
	case mode.DeedNote:
		p.alert(ctx, contract.AlertGuest, "the guest "+string(in.Event.Kind)+": "+in.Event.Detail, "look at its console; understudy resume "+p.vm.Name+" clears this")
	case mode.DeedStorage, mode.DeedNone:
	}
}

func (p *protection) vmIsBack(workflow.Context) {
	p.st.Off = ""
	p.look = true
	p.clear(contract.AlertIOError, contract.AlertVMPaused, contract.AlertVMDown)
	if t := p.st.Trigger; t != nil && !t.Request && !t.Silent {
		p.st.Trigger = nil
		p.st.Totals.FalseAlarms++ // it came back by itself before anything was done
	}
	if p.st.FailoverTries > 0 && !p.failingOver() {
		p.stopFailing()
	}
}

func (p *protection) onSuspect(ctx workflow.Context, in contract.HostSignalIn) {
	if !p.uses(in.Host) {
		return
	}
	p.st.HostSilent[string(in.Host)] = true
	p.tell(ctx, in.Host, true)
	p.standbySilent(ctx)
	p.alert(ctx, silentAlert(in.Host), string(in.Host)+" is not heard: "+in.Detail, "understudy doctor --host "+string(in.Host))
	if in.Host == p.st.Primary {
		p.st.LastLoad = loadWords(in.Facts)
		p.assumeWrites(ctx)
	}
	p.suspect(ctx)
}

func (p *protection) onRecovered(ctx workflow.Context, in contract.HostSignalIn) {
	if !p.uses(in.Host) {
		return
	}
	if in.Facts != nil {
		p.link(in.Host, *in.Facts)
		p.atRest(ctx, in.Host, in.Facts.AtRest)
	}
	p.tell(ctx, in.Host, false)
	p.heard(in.Host)
	p.suspect(ctx) // the standby may be the witness that was missing
}

func (p *protection) onCrash(ctx workflow.Context, in contract.CrashIn) {
	p.report(ctx, in)
}

func (p *protection) uses(h model.HostID) bool { return h == p.st.Primary || h == p.st.Standby }

func (p *protection) describe() contract.DescribeOut {
	st := *p.st
	st.Decisions = nil // explain has them
	return contract.DescribeOut{Spec: p.in.Spec, State: st}
}
