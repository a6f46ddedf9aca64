package cadence

// Step is how far the protections of a host are degraded because not everything fits. The order is a promise: each step
// includes those before it. The verification of digests is in none of them.
type Step int

// Steps in their order.
const (
	Full         Step = iota
	Compress          // a higher compression level, when the link binds and the CPU budget permits
	Postpone          // boot verification, merges of old points and resyncs wait
	BronzeCapped      // bronze has a cap on its share, and shows its true exposure
	SilverCapped
	GoldViolated // gold reports violated
	lastStep     = GoldViolated
)

const (
	stepUpAfter   = 2   // decisions in a row with negative slack
	stepDownAfter = 5   // cycles in a row with room
	roomy         = 0.2 // of RPO
)

// Ladder climbs and descends one step at a time, with hysteresis.
type Ladder struct {
	Step  Step `json:"step"`
	Short int  `json:"short"` // decisions in a row that could not be met
	Roomy int  `json:"roomy"` // cycles in a row with room
}

// Decided takes one decision into account: whether any slack was left.
func (l Ladder) Decided(slackLeft bool) Ladder {
	if slackLeft {
		l.Short = 0
		return l
	}
	l.Roomy = 0
	if l.Short++; l.Short >= stepUpAfter && l.Step < lastStep {
		l.Step, l.Short = l.Step+1, 0
	}
	return l
}

// Verified takes one verified cycle into account: for which share of RPO its start could be put off. The peak of the
// exposure says nothing, because the law waits until the slack is used.
func (l Ladder) Verified(putOff float64) Ladder {
	if !(putOff >= roomy) {
		l.Roomy = 0
		return l
	}
	if l.Roomy++; l.Roomy >= stepDownAfter && l.Step > Full {
		l.Step, l.Roomy = l.Step-1, 0
	}
	return l
}

func (s Step) String() string {
	if s < Full || s > lastStep {
		return "unknown"
	}
	return [...]string{"full", "compress more", "postpone boot verification, merges and resyncs", "cap bronze", "cap silver", "gold violated"}[s]
}
