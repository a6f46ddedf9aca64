package cadence

import "time"

// Gear is how a protection is run by the control plane.
type Gear int

// Gears, from the cheapest a cycle to the richest.
const (
	GearAgent  Gear = iota // the agent decides the starts: it does not exist (docs/adr/0015), the merged one stands for it
	GearMerged             // captured and sent in one activity
	GearStages             // an activity a stage
)

const (
	agentBelow  = 10 * time.Second
	mergedBelow = 30 * time.Second
	downFactor  = 1.3 // beyond the boundary, against flapping
	downCycles  = 10
	gearWindow  = 5
)

// Gearbox chooses the gear by the planned intervals of the last cycles: towards shorter intervals at once, back only after
// ten cycles beyond 1.3 times the boundary. The zero value has no gear yet and takes the one that fits.
type Gearbox struct {
	Gear    Gear            `json:"gear"`
	Set     bool            `json:"set"`
	Planned []time.Duration `json:"planned_ns,omitempty"` // newest last, at most 5
	Calm    int             `json:"calm"`
}

// Next takes the planned interval of a cycle into account.
func (b Gearbox) Next(planned time.Duration) Gearbox {
	b.Planned = append(append([]time.Duration(nil), b.Planned...), max(planned, 0))
	b.Planned = b.Planned[max(0, len(b.Planned)-gearWindow):]
	var mean time.Duration
	for _, p := range b.Planned {
		mean += p / time.Duration(len(b.Planned))
	}
	switch fits, roomy := gearOf(mean, 1), gearOf(mean, downFactor); {
	case !b.Set || fits < b.Gear:
		b.Gear, b.Set, b.Calm = fits, true, 0
	case roomy > b.Gear:
		if b.Calm++; b.Calm >= downCycles {
			b.Gear, b.Calm = b.Gear+1, 0
		}
	default:
		b.Calm = 0
	}
	return b
}

func gearOf(mean time.Duration, factor float64) Gear {
	switch {
	case mean < scale(agentBelow, factor):
		return GearAgent
	case mean < scale(mergedBelow, factor):
		return GearMerged
	}
	return GearStages
}
