package lease

import (
	"context"

	"understudy/internal/model"
)

// Ask is one VM of a renewal: may I go on under this generation?
type Ask struct {
	VM         string           `json:"vm"` // UUID
	Generation model.Generation `json:"generation"`
	Nonce      uint64           `json:"nonce"`
}

// RenewIn is a renewal, batched by pair of hosts.
type RenewIn struct {
	Host     model.HostID `json:"host"`
	Instance string       `json:"instance"` // of the asking process
	BootID   string       `json:"boot_id"`
	Asks     []Ask        `json:"asks"`
}

// Answer to one Ask. A grant counts from the moment the request was sent, so it carries no time [C3].
type Answer struct {
	VM      string `json:"vm"`
	Nonce   uint64 `json:"nonce"`
	Granted bool   `json:"granted"`
	// Floor is the highest generation that the grantor knows.
	Floor model.Generation `json:"floor"`
	// Moved says that a higher generation is permitted, not only claimed: this one is over for good.
	Moved bool   `json:"moved,omitempty"`
	Why   string `json:"why,omitempty"`
}

// RenewOut answers a renewal.
type RenewOut struct {
	Grantor string   `json:"grantor"` // its durable id
	Answers []Answer `json:"answers"`
}

// MaxAsks bounds one renewal; a host with more VMs sends several.
const MaxAsks = 2000

// Renewer carries a renewal to a grantor.
type Renewer interface {
	Renew(ctx context.Context, to model.Grantor, in RenewIn) (RenewOut, error)
}

// Guard is the process beside the agent that stops a VM whose deadline comes, and gates every start.
type Guard interface {
	// Arm is acknowledged: when it returned, the guard acts on it whatever happens to us.
	Arm(ctx context.Context, a model.GuardArm) error
	// Freeze ends the lease of a generation at once and proves that its copy is stopped; a later Arm with a deadline ahead thaws it.
	Freeze(ctx context.Context, uuid string, g model.Generation) error
	// Stop kills any copy of a lower generation and proves it gone.
	Stop(ctx context.Context, uuid string, below model.Generation) error
	// Forget lets the VM go: it is no longer protected here.
	Forget(ctx context.Context, uuid string) error
	State(ctx context.Context) (model.GuardState, error)
}
