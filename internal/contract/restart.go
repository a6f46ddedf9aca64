package contract

import (
	"time"

	"understudy/internal/model"
)

// RestartIn starts a VM that died again on the host that holds it.
type RestartIn struct {
	Fence
	Mode     model.LeaseMode `json:"mode,omitempty"`
	Grantors []model.Grantor `json:"grantors,omitempty"`
	Action   model.Isolation `json:"action,omitempty"`
}

// RestartOut says since when it runs; Restarted is false when somebody had started it already.
type RestartOut struct {
	StartedAt time.Time `json:"started_at"`
	Restarted bool      `json:"restarted"`
}

// Restart is recovery in place.
var Restart = Activity[RestartIn, RestartOut]{"restart", hostOptions(60, 6, 2)}
