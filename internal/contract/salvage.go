package contract

import (
	"time"

	"understudy/internal/model"
)

// Salvage is leave for a failover to read the last writes off the dead VM's disks before it moves, when the old host's agent
// answers. It is never needed: without it the newest point that was made before is started.
type Salvage struct {
	Seq         model.Seq     `json:"seq"`       // of the point; its number is reserved
	Budget      time.Duration `json:"budget_ns"` // for all of it
	LinkAddress string        `json:"link_address"`
	Compression string        `json:"compression"`
	Tier        model.Tier    `json:"tier,omitempty"`
	RPO         time.Duration `json:"rpo_ns"`
}

// SalvageIn makes a point of the disks of a VM that was proved off, on the host where they lie.
type SalvageIn struct {
	Fence
	Point       model.PointRef `json:"point"`
	Parent      model.PointRef `json:"parent"` // newest committed point of the standby
	Standby     model.HostID   `json:"standby"`
	LinkAddress string         `json:"link_address"`
	Compression string         `json:"compression"`
	Tier        model.Tier     `json:"tier,omitempty"`
	RPO         time.Duration  `json:"rpo_ns"`
	// Budget is how long it may take; what will clearly take longer is given up early.
	Budget time.Duration `json:"budget_ns"`
}

// SalvageOut is what was sent; verify then proves it and makes the point.
type SalvageOut struct {
	TakenAt   time.Time            `json:"taken_at"`
	Disks     []model.SnapshotDisk `json:"disks"`
	Stats     []DiskStats          `json:"stats"`
	SentBytes int64                `json:"sent_bytes"`
	Took      time.Duration        `json:"took_ns"`
}

// SalvageDisks is on the short queue: copies that are under way must not stand in front of it.
var SalvageDisks = Activity[SalvageIn, SalvageOut]{"salvage", hostOptions(600, 6, 1)}
