package contract

import (
	"time"

	"understudy/internal/model"
)

// Recovery orders the starts of VMs whose host died: by tier, the recovery plan, and how many a host takes at once. It is one
// workflow for all hosts, begun by the first failover that asks and over when nobody asks any more.
const (
	RecoveryName = "Recovery"
	RecoveryID   = "recovery"
)

// RecoveryIn is carried by continue-as-new.
type RecoveryIn struct {
	Waiting  []StartAsk   `json:"waiting,omitempty"`
	Starting []StartAsk   `json:"starting,omitempty"` // At is when it was let through
	Ended    []StartEnded `json:"ended,omitempty"`
}

// StartAsk is a failover that could start its VM now.
type StartAsk struct {
	VM      model.VMRef     `json:"vm"`
	Target  model.HostID    `json:"target"`
	Tier    model.Tier      `json:"tier"`
	Rule    model.StartRule `json:"rule"`
	At      time.Time       `json:"at"`
	ReplyTo string          `json:"reply_to"` // workflow id of the failover
}

// StartAnswer says that the VM may be started, or that the question was heard and what it waits for.
type StartAnswer struct {
	Granted bool   `json:"granted"`
	Why     string `json:"why"`
}

// StartEnded says that a start is over, and whether the VM runs.
type StartEnded struct {
	VM model.VMRef `json:"vm"`
	OK bool        `json:"ok"`
	At time.Time   `json:"at"`
}

// StartPlace is what a failover knows of its place.
type StartPlace struct {
	Tier model.Tier      `json:"tier"`
	Rule model.StartRule `json:"rule"`
}

// SetStartIn gives a protection its place in the recovery plan; nil takes it away.
type SetStartIn struct {
	Rule *model.StartRule `json:"rule"`
	By   string           `json:"by"`
}

// Messages of the recovery.
var (
	SigStartAsk    = Signal[StartAsk]{"start-ask"}
	SigStartAnswer = Signal[StartAnswer]{"start-answer"}
	SigStartEnded  = Signal[StartEnded]{"start-ended"}

	UpdSetStart = Update[SetStartIn, DescribeOut]{"set-start"}

	QueryRecovery = Query[RecoveryIn]{"describe-recovery"}
)
