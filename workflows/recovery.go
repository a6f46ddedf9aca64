package workflows

import (
	"cmp"
	"slices"
	"time"

	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/decide/plan"
)

const (
	recoveryIdle = 5 * time.Minute // without anybody who asks, then it ends
	recoveryKeep = 500             // ends that are remembered over a continue-as-new
)

// recovery is one run of Recovery.
type recovery struct {
	state   plan.State
	replyTo map[string]string // of those who wait
	told    map[string]string // the last word to each
	dirty   bool
}

// Recovery lets failovers start their VMs in the order of the recovery plan. It decides nothing but the order: a failover that
// does not hear from it goes on by itself.
func Recovery(ctx workflow.Context, in contract.RecoveryIn) error {
	r := &recovery{
		state:   plan.State{Waiting: map[string]plan.Want{}, Starting: map[string]plan.Start{}, Ended: map[string]plan.End{}},
		replyTo: map[string]string{}, told: map[string]string{},
	}
	r.load(in)
	if err := contract.QueryRecovery.Handle(ctx, func() (contract.RecoveryIn, error) { return r.carry(), nil }); err != nil {
		return err
	}
	asks, ends := contract.SigStartAsk.Channel(ctx), contract.SigStartEnded.Channel(ctx)
	workflow.Go(ctx, func(ctx workflow.Context) {
		sel := workflow.NewSelector(ctx)
		sel.AddReceive(asks, func(workflow.ReceiveChannel, bool) { r.receive(ctx, asks, ends) })
		sel.AddReceive(ends, func(workflow.ReceiveChannel, bool) { r.receive(ctx, asks, ends) })
		for {
			sel.Select(ctx)
		}
	})
	for {
		r.dirty = false
		wake := r.grant(ctx)
		info := workflow.GetInfo(ctx)
		if info.GetContinueAsNewSuggested() || info.GetCurrentHistoryLength() > runEvents {
			r.receive(ctx, asks, ends)
			return workflow.NewContinueAsNewError(ctx, contract.RecoveryName, r.carry())
		}
		summary := "until something changes by itself"
		if wake == 0 {
			wake, summary = recoveryIdle, "nobody asks: then it ends"
		}
		changed, err := workflow.AwaitWithOptions(ctx, workflow.AwaitOptions{
			Timeout: wake, TimerOptions: workflow.TimerOptions{Summary: summary},
		}, func() bool { return r.dirty })
		if err != nil {
			return err
		}
		if !changed && len(r.state.Waiting) == 0 && len(r.state.Starting) == 0 {
			r.receive(ctx, asks, ends)
			if !r.dirty {
				return nil
			}
		}
	}
}

// receive takes all that has arrived. A failover that asks again replaces its question.
func (r *recovery) receive(ctx workflow.Context, asks, ends workflow.ReceiveChannel) {
	now := workflow.Now(ctx)
	for {
		var ask contract.StartAsk
		var end contract.StartEnded
		switch {
		case asks.ReceiveAsync(&ask):
			delete(r.state.Ended, ask.VM.UUID)
			delete(r.state.Starting, ask.VM.UUID)
			r.state.Waiting[ask.VM.UUID] = plan.Want{VM: ask.VM, Target: ask.Target, Tier: ask.Tier, Rule: ask.Rule, Asked: now}
			r.replyTo[ask.VM.UUID] = ask.ReplyTo
			delete(r.told, ask.VM.UUID)
		case ends.ReceiveAsync(&end):
			delete(r.state.Waiting, end.VM.UUID)
			delete(r.state.Starting, end.VM.UUID)
			r.state.Ended[end.VM.UUID] = plan.End{OK: end.OK, At: now}
		default:
			return
		}
		r.dirty = true
	}
}

// grant lets through who may start, tells the others what they wait for, and says when to look again.
func (r *recovery) grant(ctx workflow.Context) time.Duration {
	now := workflow.Now(ctx)
	for _, uuid := range plan.Sorted(r.state.Starting) {
		if !now.Before(r.state.Starting[uuid].At.Add(plan.SlotLimit)) {
			delete(r.state.Starting, uuid)
		}
	}
	start, _ := plan.Next(now, r.state)
	for _, w := range start {
		delete(r.state.Waiting, w.VM.UUID)
		r.state.Starting[w.VM.UUID] = plan.Start{VM: w.VM, Target: w.Target, At: now}
		r.tell(ctx, w.VM.UUID, contract.StartAnswer{Granted: true, Why: "it is its turn"})
	}
	for _, uuid := range plan.Sorted(r.state.Waiting) {
		r.tell(ctx, uuid, contract.StartAnswer{Why: plan.Why(now, r.state.Waiting[uuid], r.state)})
	}
	_, wake := plan.Next(now, r.state)
	return wake
}

func (r *recovery) tell(ctx workflow.Context, uuid string, a contract.StartAnswer) {
	if r.told[uuid] == a.Why {
		return
	}
	r.told[uuid] = a.Why
	contract.SigStartAnswer.SendExternal(ctx, r.replyTo[uuid], a) // who is gone needs no answer
}

func (r *recovery) load(in contract.RecoveryIn) {
	for _, a := range in.Waiting {
		r.state.Waiting[a.VM.UUID] = plan.Want{VM: a.VM, Target: a.Target, Tier: a.Tier, Rule: a.Rule, Asked: a.At}
		r.replyTo[a.VM.UUID] = a.ReplyTo
	}
	for _, a := range in.Starting {
		r.state.Starting[a.VM.UUID] = plan.Start{VM: a.VM, Target: a.Target, At: a.At}
	}
	for _, e := range in.Ended {
		r.state.Ended[e.VM.UUID] = plan.End{OK: e.OK, At: e.At}
	}
}

func (r *recovery) carry() contract.RecoveryIn {
	var out contract.RecoveryIn
	for _, uuid := range plan.Sorted(r.state.Waiting) {
		w := r.state.Waiting[uuid]
		out.Waiting = append(out.Waiting, contract.StartAsk{VM: w.VM, Target: w.Target, Tier: w.Tier, Rule: w.Rule, At: w.Asked, ReplyTo: r.replyTo[uuid]})
	}
	for _, uuid := range plan.Sorted(r.state.Starting) {
		s := r.state.Starting[uuid]
		out.Starting = append(out.Starting, contract.StartAsk{VM: s.VM, Target: s.Target, At: s.At})
	}
	for _, uuid := range plan.Sorted(r.state.Ended) {
		e := r.state.Ended[uuid]
		vm := contract.StartEnded{OK: e.OK, At: e.At}
		vm.VM.UUID = uuid
		out.Ended = append(out.Ended, vm)
	}
	slices.SortStableFunc(out.Ended, func(a, b contract.StartEnded) int { return cmp.Compare(a.At.UnixNano(), b.At.UnixNano()) })
	if n := len(out.Ended) - recoveryKeep; n > 0 {
		out.Ended = out.Ended[n:]
	}
	return out
}
