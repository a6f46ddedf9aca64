// Package mode says what a protection is doing (its phase), how true its promise is, and how it reacts to each kind of
// failure. Pure.
//
// Source: DESIGN.md sections 5 and 9; the table of failures is references/models.md section 3.8.
package mode

import (
	"time"

	"understudy/internal/model"
)

// Facts are what the phase follows from.
type Facts struct {
	FailingOver  bool
	Failed       bool // a person is needed
	Paused       bool
	Off          bool // the VM does not run
	StandbyReady bool
	Seeded       bool // there is a verified point
	Failures     int  // cycles failed in a row
	Exposure     time.Duration
	RPO          time.Duration
}

// Phase is the first word that is true, the most urgent one first.
func Phase(f Facts) model.Phase {
	switch {
	case f.FailingOver:
		return model.PhaseFailingOver
	case f.Failed:
		return model.PhaseFailed
	case f.Paused, f.Off:
		return model.PhaseSuspended
	case !f.StandbyReady, f.Failures > 0:
		return model.PhaseDegraded
	case !f.Seeded:
		return model.PhaseSeeding
	case f.Exposure > f.RPO:
		return model.PhaseDegraded
	}
	return model.PhaseProtected
}

// Level is how far an exposure has gone.
type Level int

// Levels; the alerts of DESIGN.md section 5.
const (
	Met      Level = iota
	AtRisk         // 75 % of the target
	Violated       // the target
	Twice          // twice the target
)

// thresholds in quarters of the target.
var thresholds = [...]struct {
	quarters int64
	level    Level
}{{8, Twice}, {4, Violated}, {3, AtRisk}}

// LevelOf an exposure.
func LevelOf(exposure, rpo time.Duration) Level {
	for _, t := range thresholds {
		if 4*int64(exposure) > t.quarters*int64(rpo) {
			return t.level
		}
	}
	return Met
}

// NextThreshold is the exposure at which the level rises next; false when it cannot rise any more.
func NextThreshold(exposure, rpo time.Duration) (time.Duration, bool) {
	for i := len(thresholds) - 1; i >= 0; i-- {
		if at := time.Duration(thresholds[i].quarters * int64(rpo) / 4); exposure <= at {
			return at, true
		}
	}
	return 0, false
}

// Planned is up to which exposure the next point comes as planned: nineteen twentieths of the target, at least half a second
// before it. The cadence keeps as much back.
func Planned(rpo time.Duration) time.Duration { return rpo - max(rpo/20, time.Second/2) }

// LevelOnPlan is the level of an exposure while the next point is planned to be verified before it exceeds planned: up to
// there nothing is at risk. Without a plan (0) it is LevelOf.
func LevelOnPlan(exposure, rpo, planned time.Duration) Level {
	level := LevelOf(exposure, rpo)
	if level == AtRisk && exposure <= planned {
		return Met
	}
	return level
}

// NextThresholdOnPlan is NextThreshold for LevelOnPlan.
func NextThresholdOnPlan(exposure, rpo, planned time.Duration) (time.Duration, bool) {
	if planned = min(planned, rpo); exposure <= planned && LevelOf(planned, rpo) == AtRisk {
		return planned, true
	}
	return NextThreshold(exposure, rpo)
}

// MayFailOver says whether the system may fail over by itself; the reason is empty when it may.
func MayFailOver(m model.FailoverMode, committed bool, failed string) string {
	switch {
	case m != model.FailoverAuto:
		return "the policy leaves failovers to a person"
	case !committed:
		return "there is no verified point on the standby"
	case failed != "":
		return "a person is needed: " + failed
	}
	return ""
}
