package model

import (
	"fmt"
	"time"
)

// Tier orders VMs when resources are short.
type Tier string

// Tiers, most important first.
const (
	Gold   Tier = "gold"
	Silver Tier = "silver"
	Bronze Tier = "bronze"
)

// FailoverMode says who may decide an unplanned failover.
type FailoverMode string

// Modes.
const (
	FailoverAuto   FailoverMode = "auto"   // by the system, as soon as the old VM is proved off
	FailoverManual FailoverMode = "manual" // by a person only
)

// Bounds of a policy.
const (
	MinRPO  = 2 * time.Second
	MaxRPO  = 24 * time.Hour
	MaxKeep = 500
)

// Policy is what the customer requires of one protection.
type Policy struct {
	Version  int           `json:"version"` // grows with each set-policy
	RPO      time.Duration `json:"rpo_ns"`
	Tier     Tier          `json:"tier"`
	KeepLast int           `json:"keep_last"` // points kept, at least 2
	Failover FailoverMode  `json:"failover"`
	Freeze   bool          `json:"freeze"` // freeze guest file systems around the snapshot (needs the guest agent)
	// MaxBandwidth bounds the link use of this protection, bytes per second; 0 means unbounded.
	MaxBandwidth int64 `json:"max_bandwidth"`
	// Compression of what is sent: "auto", "off", "fast", "default" or "best".
	Compression string `json:"compression"`
}

// DefaultPolicy is used for whatever the user does not say.
func DefaultPolicy() Policy {
	return Policy{Version: 1, RPO: 30 * time.Second, Tier: Silver, KeepLast: 8, Failover: FailoverAuto, Compression: "auto"}
}

// Validate refuses contradictory or impossible requirements, with the reason.
func (p Policy) Validate() error {
	switch {
	case p.RPO < MinRPO || p.RPO > MaxRPO:
		return Fail(InvalidArgument, nil, "RPO must be between %s and %s, not %s", MinRPO, MaxRPO, p.RPO).
			WithTry("--rpo 30s")
	case p.KeepLast < 2 || p.KeepLast > MaxKeep:
		return Fail(InvalidArgument, nil, "keep-last must be between 2 and %d points, not %d", MaxKeep, p.KeepLast).
			WithTry("--keep-last 8")
	case p.MaxBandwidth < 0:
		return Fail(InvalidArgument, nil, "bandwidth must not be negative, it is %d bytes/s", p.MaxBandwidth)
	}
	if err := oneOf("tier", string(p.Tier), string(Gold), string(Silver), string(Bronze)); err != nil {
		return err
	}
	if err := oneOf("failover", string(p.Failover), string(FailoverAuto), string(FailoverManual)); err != nil {
		return err
	}
	return oneOf("compression", p.Compression, "auto", "off", "fast", "default", "best")
}

func oneOf(name, got string, allowed ...string) error {
	for _, a := range allowed {
		if got == a {
			return nil
		}
	}
	return Fail(InvalidArgument, nil, "%s must be one of %v, not %q", name, allowed, got).
		WithTry(fmt.Sprintf("--%s %s", name, allowed[0]))
}
