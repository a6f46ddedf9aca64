package obs

import (
	"time"

	"understudy/internal/contract"
	"understudy/internal/decide/calendar"
	"understudy/internal/decide/mode"
	"understudy/internal/model"
)

// Promise is how a protection stands against its target at one instant.
type Promise struct {
	Target   time.Duration // of this hour
	Window   string        // of the calendar; empty when none is open
	Exposure time.Duration
	State    model.RPOState
}

// PromiseOf a protection.
func PromiseOf(st contract.ProtectState, now time.Time) Promise {
	eff, window := calendar.Effective(st.Policy, now)
	seen := mode.Seen{OldestWrite: st.Unreplicated, Silent: st.HostSilent[string(st.Primary)], OnPlan: st.OnPlan()}
	if st.Observed != nil {
		seen.LookedAt = &st.Observed.At
	}
	p := Promise{Target: eff.RPO, Window: window}
	p.Exposure, p.State = mode.Promise(seen, eff.RPO, now)
	return p
}
