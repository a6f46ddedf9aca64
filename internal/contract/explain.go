package contract

import (
	"fmt"
	"strings"
	"time"

	"understudy/internal/model"
)

// Quantity is one named input or intermediate result of a decision.
type Quantity struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

// String is for people; empty for what is zero or unknown.
func (q Quantity) String() string {
	switch {
	case q.Value == 0 || q.Value < 0 && strings.HasPrefix(q.Unit, "B"):
		return ""
	case q.Unit == "B" || q.Unit == "B/s":
		v, unit := q.Value, ""
		for _, next := range []string{"k", "M", "G", "T"} {
			if v < 1000 {
				break
			}
			v, unit = v/1000, next
		}
		return fmt.Sprintf("%s %.3g %s%s", q.Name, v, unit, q.Unit)
	case q.Unit == "share":
		return fmt.Sprintf("%s %.0f %%", q.Name, 100*q.Value)
	case q.Unit == "x":
		return fmt.Sprintf("%s × %.3g", q.Name, q.Value)
	}
	return strings.TrimSpace(fmt.Sprintf("%s %.3g %s", q.Name, q.Value, q.Unit))
}

// Decision is a decision about the next cycle, with what it rested on.
type Decision struct {
	At      time.Time     `json:"at"`
	Cadence model.Cadence `json:"cadence"`
	RPO     time.Duration `json:"rpo_ns"`           // in force: of the policy, of a window, or less because one opens soon
	Window  string        `json:"window,omitempty"` // of the calendar
	Inputs  []Quantity    `json:"inputs,omitempty"`
	Change  []string      `json:"change,omitempty"` // what would change it
	Gear    string        `json:"gear,omitempty"`   // of a cycle that begins with it
	Times   int           `json:"times"`            // in a row with this result; At and the inputs are of the last
}

// ExplainOut is the answer of the explain query.
type ExplainOut struct {
	VM        model.VMRef  `json:"vm"`
	Policy    model.Policy `json:"policy"`
	Gear      string       `json:"gear,omitempty"`
	Degraded  string       `json:"degraded,omitempty"` // what is left out because not everything fits; empty when nothing is
	Cycles    int          `json:"cycles"`             // that were learned from
	Decisions []Decision   `json:"decisions"`          // newest last
	// Memory is how fast the guest dirtied its memory of late; nil when that is not known. No decision rests on it.
	Memory *model.MemoryRate `json:"memory,omitempty"`
}

// OnPlan says that nothing is in the way of the next point: an exposure short of the planned verification is no risk then.
func (s ProtectState) OnPlan() bool {
	return !s.HostSilent[string(s.Primary)] && !s.HostSilent[string(s.Standby)] && s.StandbyReady && s.Failures == 0 && s.RetryAt == nil && s.Paused == nil && s.Off == "" && s.Failed == "" &&
		(s.Failover == nil || s.Failover.Outcome != "")
}
