package workflows

import (
	"fmt"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/model"
)

const (
	evidenceLimit = 90 * time.Second // for all rungs together
	personGrace   = 10 * time.Second // better evidence than a person's word is waited for no longer than this
)

// ladder gathers evidence that the old VM is off. The rungs run beside each other, the first that holds wins.
type ladder struct {
	f       *failover
	won     *model.Evidence
	failed  []string
	running int
}

// prove asks the old agent to surrender and has the host's power cut: at once when the host is silent, otherwise only when
// it does not surrender. It runs after both seals; what is older proves nothing. Without evidence nothing is started.
func (f *failover) prove(ctx workflow.Context) (string, error) {
	if f.record.PermitHost == f.in.To {
		return "the target holds the last permit itself", nil
	}
	if f.in.Planned != nil {
		return f.surrenderPaused(ctx)
	}
	work, cancel := workflow.WithCancel(ctx)
	defer cancel()
	l := &ladder{f: f}
	l.rung(work, "surrender", func(ctx workflow.Context) error {
		err := l.surrender(ctx)
		if err != nil && !f.in.FromSilent {
			l.rung(ctx, "fence", l.fence)
		}
		return err
	})
	if f.in.FromSilent {
		l.rung(work, "fence", l.fence)
	}
	if l.wait() > 0 {
		l.rung(work, "lease", l.lease)
	}
	if _, err := workflow.AwaitWithOptions(ctx, workflow.AwaitOptions{
		Timeout: l.limit(), TimerOptions: workflow.TimerOptions{Summary: "evidence that the old VM is off"},
	}, func() bool { return l.won != nil || l.running == 0 }); err != nil {
		return "", err
	}
	if l.won == nil && f.in.Confirmed != nil {
		word := *f.in.Confirmed
		word.Generation = f.in.Generation
		l.won = &word
	}
	if l.won == nil {
		return "", l.unconfirmed()
	}
	f.out.Evidence = l.won
	return fmt.Sprintf("%s: %s", l.won.Kind, l.won.Detail), nil
}

func (l *ladder) limit() time.Duration {
	switch {
	case l.f.in.Confirmed != nil && (l.f.in.Force || l.wait() == 0):
		return personGrace
	case l.f.in.EvidenceTimeout > 0:
		return l.f.in.EvidenceTimeout
	}
	return max(evidenceLimit, 2*l.wait())
}

// wait is W of the old holder, by the terms that it acknowledged. 0: no lease binds it, or its guard is less than asked for.
func (l *ladder) wait() time.Duration {
	rec := l.f.record
	bound := rec.Mode == model.ModeLeased || rec.Mode == model.ModeProbation
	if !bound || rec.Terms.GuardLevel < max(1, l.f.in.GuardLevel) {
		return 0
	}
	return rec.Terms.Wait()
}

// lease is measured by the target's own clock after its seal, never by a timer of the workflow.
func (l *ladder) lease(ctx workflow.Context) error {
	w := l.wait()
	a := contract.AwaitLease
	a.Options.StartToCloseTimeout = 2*w + time.Minute
	out, err := a.Execute(ctx, contract.HostQueue(l.f.in.To), fmt.Sprintf("wait %s until the lease of %s has run out", w, l.f.in.From), contract.AwaitLeaseIn{
		Fence: l.f.fence(), Attempt: l.f.id, Wait: w,
	})
	return l.take(out, err)
}

func (l *ladder) rung(ctx workflow.Context, name string, climb func(workflow.Context) error) {
	l.running++
	workflow.Go(ctx, func(ctx workflow.Context) {
		if err := climb(ctx); err != nil {
			l.failed = append(l.failed, name+": "+sentence(err))
		}
		l.running--
	})
}

func (l *ladder) surrender(ctx workflow.Context) error {
	from := l.f.in.From
	out, err := contract.Surrender.Execute(ctx, contract.HostQueue(from), string(from)+" gives it up", contract.SurrenderIn{Fence: l.f.fence(), Attempt: l.f.id})
	return l.take(out, err)
}

func (l *ladder) fence(ctx workflow.Context) error {
	from := l.f.in.From
	out, err := contract.FencePower.Execute(ctx, contract.ControlQueue, "power "+string(from)+" off", contract.FenceIn{Fence: l.f.fence(), Host: from, Attempt: l.f.id})
	return l.take(out, err)
}

// take accepts evidence of this attempt only.
func (l *ladder) take(out contract.EvidenceOut, err error) error {
	switch {
	case err != nil:
		return err
	case out.Evidence.Generation != l.f.in.Generation:
		return contract.Refuse(model.StaleGeneration, contract.Detail{VM: l.f.in.VM.Name}, "the evidence is of generation %d", out.Evidence.Generation)
	case l.won == nil:
		l.won = &out.Evidence
	}
	return nil
}

func (l *ladder) unconfirmed() error {
	in := l.f.in
	why := strings.Join(l.failed, "; ")
	if why == "" {
		why = "nobody answered in time"
	}
	return contract.Refuse(model.FenceUnconfirmed, contract.Detail{
		VM: in.VM.Name, Host: in.From,
		Try: "repair the fence device, or let " + string(in.From) + " be heard again, or power it off by hand and then: understudy failover " + in.VM.Name + " --confirm-primary-down",
	}, "nothing proves that %s is off on %s, so nothing is started (%s)", in.VM.Name, in.From, why)
}

// show sets the timeline in the Web UI.
func (f *failover) show(ctx workflow.Context) {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s: %s → %s under generation %d\n\n%s (%s)\n\n", f.in.VM.Name, f.in.From, f.in.To, f.in.Generation, f.in.Reason, f.in.RequestBy)
	for _, s := range f.out.Steps {
		fmt.Fprintf(&b, "- %s, %s: %s%s\n", s.Name, s.Took.Round(time.Millisecond), s.Detail, s.Error)
	}
	if f.out.Outcome != "" {
		fmt.Fprintf(&b, "\n**%s** %s\n", f.out.Outcome, f.out.Error)
	}
	workflow.SetCurrentDetails(ctx, b.String())
}
