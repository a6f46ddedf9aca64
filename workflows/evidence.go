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

// ladder gathers evidence that the old VM is off. The rungs run beside each other, the first that holds wins. What became of
// each is a step of its own in the history.
type ladder struct {
	f       *failover
	began   time.Time
	won     *model.Evidence
	rungs   []*rung
	running int
	over    bool
}

type rung struct {
	name  string
	began time.Time
	ended bool
	err   error
}

// prove asks the old agent to surrender and has the host's power cut: at once when the host is silent, otherwise only when
// it does not surrender. It runs after both seals; what is older proves nothing. Without evidence nothing is started.
func (f *failover) prove(ctx workflow.Context) (string, error) {
	f.besideProof(ctx)
	if f.record.PermitHost == f.in.To {
		return "the target holds the last permit itself", nil
	}
	if f.in.Planned != nil {
		return f.surrenderPaused(ctx)
	}
	work, cancel := workflow.WithCancel(ctx)
	defer cancel()
	l := &ladder{f: f, began: workflow.Now(ctx)}
	defer l.close(ctx)
	l.climbSurrender(work)
	if f.in.FromSilent {
		l.climb(work, "fence", l.fence)
	}
	if l.wait() > 0 {
		l.climb(work, "lease", l.lease)
	}
	if err := l.await(ctx, work); err != nil {
		return "", err
	}
	if l.won == nil {
		l.believe(ctx)
	}
	if l.won == nil {
		return "", l.unconfirmed()
	}
	f.out.Evidence = l.won
	return fmt.Sprintf("%s: %s", l.won.Kind, l.won.Detail), nil
}

// await ends with evidence, when all rungs failed, at the limit, or when the takeover has become pointless. A host that is
// heard again is asked to surrender again, where a person wants the VM moved all the same.
func (l *ladder) await(ctx, work workflow.Context) error {
	f := l.f
	for again := false; ; {
		left := l.until().Sub(workflow.Now(ctx))
		if left <= 0 || l.won != nil {
			return nil
		}
		word := f.word
		_, err := workflow.AwaitWithOptions(ctx, workflow.AwaitOptions{
			Timeout: left, TimerOptions: workflow.TimerOptions{Summary: "evidence that the old VM is off"},
		}, func() bool {
			return l.won != nil || l.running == 0 || l.enough() || l.pointless() != nil || f.word != word || f.heard && f.in.ByPerson && !again
		})
		switch why := l.pointless(); {
		case err != nil:
			return err
		case l.won != nil || l.enough():
			return nil
		case why != nil:
			return why
		case f.heard && f.in.ByPerson && !again:
			again = true
			l.climbSurrender(work)
		case l.running == 0:
			return nil
		}
	}
}

// pointless is why the takeover is given up before anything proves the old VM off: a person wants that, or nothing but
// silence was wrong and it is over, or the target is lost and the old host is there. Power that may be cut any moment is waited
// for: the VM would be down all the same.
func (l *ladder) pointless() error {
	f := l.f
	in := f.in
	switch {
	case l.won != nil:
		return nil
	case f.abandoned != nil:
		f.out.TakenBackBy = f.abandoned.By
		return f.refuse(model.Conflict, "the failover was abandoned by %s", f.abandoned.By)
	case l.climbing("fence"):
		return nil
	case f.heard && in.Silence:
		f.out.HeardAgain = true
		return f.refuse(model.Conflict, "%s was heard again before anything proved that %s is off there: it goes on", in.From, in.VM.Name)
	case f.lost && (f.heard || !in.FromSilent) && !l.climbing("surrender"):
		return f.refuse(model.Unreachable, "%s fell silent before it was permitted to start %s", in.To, in.VM.Name)
	}
	return nil
}

func (l *ladder) climbing(name string) bool {
	for _, r := range l.rungs {
		if r.name == name && !r.ended {
			return true
		}
	}
	return false
}

// until is when no more evidence is waited for.
func (l *ladder) until() time.Time {
	f := l.f
	switch {
	case l.taken():
		at := l.began
		if f.wordAt.After(at) {
			at = f.wordAt
		}
		return at.Add(personGrace)
	case f.in.EvidenceTimeout > 0:
		return l.began.Add(f.in.EvidenceTimeout)
	}
	return l.began.Add(max(evidenceLimit, 2*l.wait()))
}

// taken says that a person's word counts by itself. Where a lease binds the old holder it is outlasted all the same, because a
// person may be wrong, unless the person wants it so.
func (l *ladder) taken() bool {
	return l.f.word != nil && (l.f.forced || l.wait() == 0)
}

// enough: nothing but the lease is waited for, and the person said not to wait for it.
func (l *ladder) enough() bool {
	return l.f.word != nil && l.f.forced && l.running == 1 && l.climbing("lease")
}

// believe takes a person's word, when nothing better is to be had.
func (l *ladder) believe(ctx workflow.Context) {
	if !l.taken() {
		return
	}
	word := *l.f.word
	word.Generation = l.f.in.Generation
	l.won = &word
	l.f.note(ctx, contract.FailoverStep{Name: "person", At: workflow.Now(ctx), Detail: word.By + ": " + word.Detail})
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
func (l *ladder) lease(ctx workflow.Context) (string, error) {
	w := l.wait()
	a := contract.AwaitLease
	a.Options.StartToCloseTimeout = 2*w + time.Minute
	out, err := a.Execute(ctx, contract.HostQueue(l.f.in.To), fmt.Sprintf("wait %s until the lease of %s has run out", w, l.f.in.From), contract.AwaitLeaseIn{
		Fence: l.f.fence(), Attempt: l.f.id, Wait: w,
	})
	return l.take(out, err)
}

// climb starts a rung beside the others.
func (l *ladder) climb(ctx workflow.Context, name string, do func(workflow.Context) (string, error)) {
	r := &rung{name: name, began: workflow.Now(ctx)}
	l.rungs = append(l.rungs, r)
	l.running++
	workflow.Go(ctx, func(ctx workflow.Context) {
		detail, err := do(ctx)
		r.ended, r.err = true, err
		l.running--
		if !l.over {
			l.f.note(ctx, contract.FailoverStep{
				Name: name, At: r.began, Took: workflow.Now(ctx).Sub(r.began), Detail: detail, Error: clip(sentence(err)),
			})
		}
	})
}

// close says which rungs nobody waits for any more.
func (l *ladder) close(ctx workflow.Context) {
	l.over = true
	for _, r := range l.rungs {
		if !r.ended {
			l.f.note(ctx, contract.FailoverStep{Name: r.name, At: r.began, Took: workflow.Now(ctx).Sub(r.began), Detail: "not waited for"})
		}
	}
}

func (l *ladder) climbSurrender(ctx workflow.Context) {
	l.climb(ctx, "surrender", func(ctx workflow.Context) (string, error) {
		detail, err := l.surrender(ctx)
		if err != nil && !l.f.in.FromSilent && !l.over && ctx.Err() == nil {
			l.climb(ctx, "fence", l.fence)
		}
		return detail, err
	})
}

func (l *ladder) surrender(ctx workflow.Context) (string, error) {
	from := l.f.in.From
	out, err := contract.Surrender.Execute(ctx, contract.HostQueue(from), string(from)+" gives it up", contract.SurrenderIn{Fence: l.f.fence(), Attempt: l.f.id})
	return l.take(out, err)
}

func (l *ladder) fence(ctx workflow.Context) (string, error) {
	from := l.f.in.From
	out, err := contract.FencePower.Execute(ctx, contract.ControlQueue, "power "+string(from)+" off", contract.FenceIn{Fence: l.f.fence(), Host: from, Attempt: l.f.id})
	return l.take(out, err)
}

// take accepts evidence of this attempt only.
func (l *ladder) take(out contract.EvidenceOut, err error) (string, error) {
	switch {
	case err != nil:
		return "", err
	case out.Evidence.Generation != l.f.in.Generation:
		return "", contract.Refuse(model.StaleGeneration, contract.Detail{VM: l.f.in.VM.Name}, "the evidence is of generation %d", out.Evidence.Generation)
	case l.won == nil:
		l.won = &out.Evidence
	}
	return out.Evidence.Detail, nil
}

func (l *ladder) unconfirmed() error {
	in := l.f.in
	var failed []string
	for _, r := range l.rungs {
		if r.ended && r.err != nil {
			failed = append(failed, r.name+": "+sentence(r.err))
		}
	}
	why := strings.Join(failed, "; ")
	if why == "" {
		why = "nobody answered in time"
	}
	try := "understudy failover " + in.VM.Name + " --confirm-primary-down"
	if l.f.word != nil {
		why += "; a person's word waits for the lease that binds the host"
		try += " --force"
	}
	return contract.Refuse(model.FenceUnconfirmed, contract.Detail{
		VM: in.VM.Name, Host: in.From,
		Try: "repair the fence device, or let " + string(in.From) + " be heard again, or power it off by hand and then: " + try,
	}, "nothing proves that %s is off on %s, so nothing is started (%s)", in.VM.Name, in.From, why)
}

// note adds a line to the timeline.
func (f *failover) note(ctx workflow.Context, s contract.FailoverStep) {
	f.out.Steps = append(f.out.Steps, s)
	f.show(ctx)
}

// show sets the timeline in the Web UI.
func (f *failover) show(ctx workflow.Context) {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s: %s → %s under generation %d\n\n%s (%s)\n\n", f.in.VM.Name, f.in.From, f.in.To, f.in.Generation, f.in.Reason, f.in.RequestBy)
	for _, s := range f.out.Steps {
		fmt.Fprintf(&b, "- %s, %s: %s%s\n", s.Name, s.Took.Round(time.Millisecond), s.Detail, s.Error)
	}
	if at := f.out.HeldUntil; at != nil {
		fmt.Fprintf(&b, "\n**held** until %s: `understudy commit %s` or `understudy rollback %s`\n", at.UTC().Format(time.DateTime), f.in.VM.Name, f.in.VM.Name)
	}
	if f.out.Outcome != "" {
		fmt.Fprintf(&b, "\n**%s** %s\n", f.out.Outcome, f.out.Error)
	}
	workflow.SetCurrentDetails(ctx, b.String())
}
