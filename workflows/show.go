package workflows

import (
	"fmt"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/decide/calendar"
	"understudy/internal/decide/mode"
	"understudy/internal/model"
)

// shown is what the search attributes say.
type shown struct {
	phase            model.Phase
	primary, standby model.HostID
	generation       model.Generation
}

// refresh derives what people see from the state. Search attributes are written only when they change, because each write
// is an event and an update of the visibility store.
func (p *protection) refresh(ctx workflow.Context) {
	st := p.st
	p.judgeExposure(ctx)
	st.Phase = mode.Phase(mode.Facts{
		FailingOver: p.failingOver(), Failed: st.Failed != "", Paused: st.Paused != nil, Off: st.Off != "",
		StandbyReady: st.StandbyReady && !p.silent(st.Standby) && !p.silent(st.Primary), Seeded: !p.parent().IsZero(),
		Failures: st.Failures, Exposure: p.exposure(ctx), RPO: p.rpo(ctx),
	})
	p.show(ctx)
	now := shown{st.Phase, st.Primary, st.Standby, st.Generation}
	if now == p.shown {
		return
	}
	p.shown = now
	err := workflow.UpsertTypedSearchAttributes(ctx,
		temporal.NewSearchAttributeKeyKeyword(contract.AttrVM).ValueSet(p.vm.Name),
		temporal.NewSearchAttributeKeyKeyword(contract.AttrPrimary).ValueSet(string(now.primary)),
		temporal.NewSearchAttributeKeyKeyword(contract.AttrStandby).ValueSet(string(now.standby)),
		temporal.NewSearchAttributeKeyKeyword(contract.AttrPhase).ValueSet(string(now.phase)),
		temporal.NewSearchAttributeKeyInt64(contract.AttrGeneration).ValueSet(int64(now.generation)), //nolint:gosec // one a failover
	)
	if err != nil {
		p.log.Warn("search attributes were not written", "error", err)
	}
}

// show sets the one-screen state of the Web UI, which costs no event, and what a list shows.
func (p *protection) show(ctx workflow.Context) {
	p.enlist(ctx)
	st := p.st
	eff, window := calendar.Effective(st.Policy, workflow.Now(ctx))
	var b strings.Builder
	fmt.Fprintf(&b, "## %s: %s\n\n", p.vm.Name, st.Phase)
	fmt.Fprintf(&b, "%s → %s, generation %d, policy %d (RPO %s, %s)\n\n", st.Primary, st.Standby, st.Generation, st.Policy.Version, eff.RPO, eff.Tier)
	if window != "" {
		fmt.Fprintf(&b, "- in the window %q of the calendar\n", window)
	}
	if n := len(st.Recent); n > 0 {
		last := st.Recent[n-1]
		fmt.Fprintf(&b, "- last point: **%d** (%s), taken %s, %s sent\n", last.Seq, last.Modes, last.TakenAt.UTC().Format(time.DateTime), size(last.SentBytes))
	}
	fmt.Fprintf(&b, "- exposure: %s\n", p.exposure(ctx).Round(100*time.Millisecond))
	if fl := st.InFlight; fl != nil {
		look := ""
		if fl.Stage != stageSend {
			look = ", " + size(fl.DirtyBytes) + " to look at"
		}
		fmt.Fprintf(&b, "- under way: point %d, %s%s\n", fl.Seq, fl.Stage, look)
	} else if !st.Cadence.NextAt.IsZero() {
		fmt.Fprintf(&b, "- next: %s (%s: %s)\n", st.Cadence.NextAt.UTC().Format(time.DateTime), st.Cadence.Binding, st.Cadence.Reason)
	}
	if st.Gear != "" {
		fmt.Fprintf(&b, "- gear: %s\n", st.Gear)
	}
	p.showWhy(&b)
	fmt.Fprintf(&b, "- points %d, looks without a cycle %d, failures %d, violations %d\n", st.Totals.Cycles, st.Totals.Skipped, st.Totals.Failures, st.Totals.Violations)
	if f := st.Failover; f != nil {
		fmt.Fprintf(&b, "- failover %d to %s: %s %s\n", f.Generation, f.To, orRunning(f.Outcome), f.Error)
		if f.HeldUntil != nil {
			fmt.Fprintf(&b, "- **held** until %s: `understudy commit %s` or `understudy rollback %s`\n", f.HeldUntil.UTC().Format(time.DateTime), p.vm.Name, p.vm.Name)
		}
	}
	for _, a := range st.Alerts {
		fmt.Fprintf(&b, "- **%s** since %s: %s", a.Name, a.Since.UTC().Format(time.DateTime), a.Detail)
		if a.Try != "" {
			fmt.Fprintf(&b, " Try: `%s`", a.Try)
		}
		b.WriteString("\n")
	}
	workflow.SetCurrentDetails(ctx, b.String())
}

// showWhy says what the newest decision rests on and what would change it.
func (p *protection) showWhy(b *strings.Builder) {
	n := len(p.st.Decisions)
	if n == 0 {
		return
	}
	d := p.st.Decisions[n-1]
	if words := inWords(d.Inputs); words != "" {
		fmt.Fprintf(b, "- decided by: %s\n", words)
	}
	for _, c := range d.Change {
		fmt.Fprintf(b, "- would change it: %s\n", c)
	}
	if what := p.degraded(); what != "" {
		fmt.Fprintf(b, "- not everything fits: %s\n", what)
	}
}

func orRunning(outcome string) string {
	if outcome == "" {
		return "running"
	}
	return outcome
}

func size(n int64) string {
	switch {
	case n < 0:
		return "an unknown amount"
	case n < 1<<20:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	case n < 1<<30:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.2f GB", float64(n)/1e9)
}
