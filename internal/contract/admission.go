package contract

// AdmissionIn is what is known before a VM is protected.
type AdmissionIn struct {
	// Demand is what it sends when it is captured each half of its RPO, in bytes on the wire, from a recorded trace; with 0 the
	// agent looks at the VM for a while.
	Demand int64 `json:"demand,omitempty"`
	// Strict is the same for the smallest RPO of its calendar; 0 when that is the policy's own.
	Strict int64 `json:"strict,omitempty"`
	Force  bool  `json:"force,omitempty"` // also when the link cannot carry it
}

// Admission says whether the primary's link carries the new VM beside those that are served there. Shares are of the budget.
type Admission struct {
	Verdict  string   `json:"verdict"` // "accept", "warn" or "refuse"
	Reason   string   `json:"reason"`
	Budget   int64    `json:"budget"`   // bytes/s
	Before   float64  `json:"before"`   // what the others need
	After    float64  `json:"after"`    // what all need
	Promised float64  `json:"promised"` // of After, what gold and silver need
	Demand   int64    `json:"demand"`   // of this VM: bytes on the wire each half of its RPO
	Sampled  float64  `json:"sampled_s,omitempty"`
	Others   []string `json:"others,omitempty"` // who uses the link, the most demanding first
	Late     []string `json:"late,omitempty"`   // bronze VMs that will be late
	Forced   bool     `json:"forced,omitempty"`
	Window   string   `json:"window,omitempty"` // of the calendar: its RPO is the smallest, and was judged
}
