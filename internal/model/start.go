package model

import "time"

// StartRule is a VM's place in the recovery plan: what it waits for when its host dies together with others.
type StartRule struct {
	Group string   `json:"group"`
	Order int      `json:"order"` // of the group, first to last
	After []string `json:"after"` // UUIDs of the VMs that must run before it
	// Delay is how long after the last of them it starts.
	Delay time.Duration `json:"delay_ns,omitempty"`
	// Wait is how long it waits for them at most; then it is started without them.
	Wait time.Duration `json:"wait_ns"`
	// Parallel is how many VMs may start at once on one host.
	Parallel int `json:"parallel"`
}

// Bounds of a rule.
const (
	DefaultStartWait     = 10 * time.Minute
	MaxStartWait         = time.Hour
	DefaultStartParallel = 4
	MaxStartParallel     = 64
)
