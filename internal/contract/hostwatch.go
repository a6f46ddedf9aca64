package contract

import (
	"time"

	"understudy/internal/model"
)

// HostWatchIn starts the watch of one host.
type HostWatchIn struct {
	Host  model.HostID    `json:"host"`
	State *HostWatchState `json:"state,omitempty"`
}

// HostWatchState is carried by continue-as-new and returned by describe-host.
type HostWatchState struct {
	Facts       model.HostFacts `json:"facts"`
	Silent      bool            `json:"silent"`
	Since       time.Time       `json:"since"` // of Silent
	LastHeard   time.Time       `json:"last_heard"`
	Protections []string        `json:"protections"` // VM UUIDs that use this host, sorted
	FalseAlarms int             `json:"false_alarms"`
}

// AttachIn registers a protection with the watch of each of its hosts.
type AttachIn struct {
	VMUUID string `json:"vm_uuid"`
}

// InspectIn asks a host about itself and, when VM is given (name or UUID), about one VM; "*" asks for all VMs.
type InspectIn struct {
	VM     string `json:"vm"`
	Doctor bool   `json:"doctor"`
	// Fence asks the host's fence devices only, whether the host is heard or not.
	Fence bool `json:"fence,omitempty"`
}

// InspectOut is its answer.
type InspectOut struct {
	Facts   model.HostFacts     `json:"facts"`
	Domains []model.DomainFacts `json:"domains"`
	Checks  []model.Check       `json:"checks"`
}

// Messages of HostWatch.
var (
	SigAgentStarted = Signal[model.HostFacts]{"agent-started"} // signal-with-start, by the agent
	SigAttach       = Signal[AttachIn]{"attach"}
	SigDetach       = Signal[AttachIn]{"detach"}

	UpdInspect = Update[InspectIn, InspectOut]{"inspect"}
	UpdPoints  = Update[PointsIn, PointsOut]{"points"} // of one VM in this host's store

	QueryHost = Query[HostWatchState]{"describe-host"}
)
