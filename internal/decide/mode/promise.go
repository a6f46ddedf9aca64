package mode

import (
	"time"

	"understudy/internal/model"
)

// Seen is what is known of a VM's unreplicated writes at one instant.
type Seen struct {
	OldestWrite *time.Time // in no verified point; nil when there is none
	LookedAt    *time.Time // the last look at the VM; nil when there was none
	Silent      bool       // the primary is not heard: nobody knows what the VM wrote since
	OnPlan      bool       // the next point is planned within the target and nothing stands in its way
}

// Promise is the exposure and what it means for the target. While the primary is silent the exposure is the age of the
// oldest known write, or of the last look at a VM that was idle, and the state is unknown.
func Promise(s Seen, rpo time.Duration, now time.Time) (time.Duration, model.RPOState) {
	var exposure time.Duration
	switch {
	case s.OldestWrite != nil:
		exposure = max(0, now.Sub(*s.OldestWrite))
	case s.Silent && s.LookedAt != nil:
		exposure = max(0, now.Sub(*s.LookedAt))
	}
	if s.Silent {
		return exposure, model.RPOUnknown
	}
	planned := time.Duration(0)
	if s.OnPlan {
		planned = Planned(rpo)
	}
	switch level := LevelOnPlan(exposure, rpo, planned); {
	case level >= Violated:
		return exposure, model.RPOViolated
	case level == AtRisk:
		return exposure, model.RPOAtRisk
	}
	return exposure, model.RPOMet
}
