package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// restartWindow is over how long the restarts of a policy are counted.
const restartWindow = 10 * time.Minute

// mayRestart: the VM died on a host that is well, and the policy lets it be started again there. That loses nothing and needs
// no takeover; what keeps dying is moved.
func (p *protection) mayRestart(ctx workflow.Context) bool {
	st := p.st
	t := st.Trigger
	if t == nil || t.Request || t.Silent || t.By != "agent" || t.Host != st.Primary || t.NoRestart || p.silent(st.Primary) || st.Paused != nil {
		return false
	}
	recent := 0
	for _, at := range st.Restarts {
		if workflow.Now(ctx).Sub(at) < restartWindow {
			recent++
		}
	}
	return recent < st.Policy.RecoverInPlace
}

// restart starts the VM again where it was, under the generation and the mode that it has: the start needs a fresh grant all
// the same.
func (p *protection) restart(ctx workflow.Context) {
	st, t := p.st, p.st.Trigger
	st.Restarts = keepNewest(append(st.Restarts, workflow.Now(ctx)))
	in := contract.RestartIn{Fence: p.fence(), Mode: model.ModeSole, Grantors: p.control(), Action: st.Policy.Isolation}
	if l := st.Lease; l != nil && l.Generation == st.Generation {
		in.Mode = l.Mode
		if len(l.Grantors) > 0 {
			in.Grantors = l.Grantors
		}
	}
	out, err := contract.Restart.Execute(ctx, p.queue(st.Primary), "start "+p.vm.Name+" again where it was", in)
	if st.Trigger != t {
		return // a person, or a host that fell silent, came before the answer
	}
	if err == nil && len(st.Policy.Probes) > 0 {
		_, err = contract.Probe.Execute(ctx, p.queue(st.Primary), "does the guest answer?", contract.ProbeIn{Fence: p.fence(), Probes: st.Policy.Probes})
		if st.Trigger != t {
			return
		}
	}
	if err != nil {
		p.log.Warn("the VM could not be started again where it was", "error", err)
		t.NoRestart = true
		t.Reason += "; it could not be started again on " + string(st.Primary) + ": " + clip(sentence(err))
		if why := p.blocked(); why != "" {
			p.alert(ctx, contract.AlertVMDown, t.Reason+". No failover by itself: "+why, "understudy failover "+p.vm.Name)
		}
		p.wake = true
		return
	}
	st.Totals.Restarts++
	st.Trigger, st.Off = nil, ""
	if out.Restarted && st.ForceResync == "" {
		st.ForceResync = "the VM died and was started again: its bitmaps were not closed"
	}
	p.clear(contract.AlertVMDown)
	p.log.Info("the VM was started again where it was", "reason", t.Reason, "restarts", fmt.Sprint(len(st.Restarts)))
	p.look, p.wake = true, true
}
