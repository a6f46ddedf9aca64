package workflows

import (
	"time"

	"go.temporal.io/sdk/workflow"

	"understudy/internal/decide/calendar"
	"understudy/internal/decide/mode"
	"understudy/internal/model"
)

// inForce is the policy of this hour: what a window of the calendar changes is in it.
func (p *protection) inForce(ctx workflow.Context) model.Policy {
	eff, _ := calendar.Effective(p.st.Policy, workflow.Now(ctx))
	return eff
}

func (p *protection) rpo(ctx workflow.Context) time.Duration { return p.inForce(ctx).RPO }

// planned is up to which exposure the next point is on its way as decided; 0 when something is in the way.
func (p *protection) planned(ctx workflow.Context) time.Duration {
	if !p.st.OnPlan() {
		return 0
	}
	return mode.Planned(p.rpo(ctx))
}

// noLonger ends a wait when another policy is in force.
func (p *protection) noLonger(ctx workflow.Context, wait time.Duration) time.Duration {
	now := workflow.Now(ctx)
	if at, changes := calendar.NextChange(p.st.Policy, now); changes {
		return min(wait, max(at.Sub(now), time.Millisecond))
	}
	return wait
}
