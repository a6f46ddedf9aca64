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
	// Hourly and Daily keep, beyond KeepLast, the newest point of each of that many hours and days (UTC) that have one.
	Hourly int `json:"hourly,omitempty"`
	Daily  int `json:"daily,omitempty"`
	// Calendar changes parts of this at certain hours; nil when there is none.
	Calendar *Calendar `json:"calendar,omitempty"`
}

// DefaultPolicy is used for whatever the user does not say.
func DefaultPolicy() Policy {
	return Policy{Version: 1, RPO: 30 * time.Second, Tier: Silver, KeepLast: 8, Failover: FailoverAuto, Compression: "auto"}
}

// Preset is the policy of a tier, before anything else was said.
func Preset(t Tier) Policy {
	p := DefaultPolicy()
	p.Tier = t
	switch t {
	case Gold:
		p.RPO, p.KeepLast = 10*time.Second, 16
	case Silver:
	case Bronze:
		p.RPO, p.KeepLast = 5*time.Minute, 4
	}
	return p
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
	case p.Hourly < 0 || p.Daily < 0:
		return Fail(InvalidArgument, nil, "hourly and daily must not be negative")
	case p.Hourly > MaxKeep || p.Daily > MaxKeep || p.KeepLast+p.Hourly+p.Daily > MaxKeep:
		return Fail(InvalidArgument, nil, "keep-last, hourly and daily together keep at most %d points", MaxKeep)
	case p.Hourly > 0 && p.RPO > time.Hour:
		return Fail(InvalidArgument, nil, "an RPO of %s does not make a point each hour to keep", p.RPO)
	}
	if err := p.validateCalendar(); err != nil {
		return err
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
