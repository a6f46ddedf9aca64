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

// What OnStandbyLoss may be.
const (
	OnStandbyLossStay    = "stay-leased"
	OnStandbyLossRelease = "release"
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
	// RTO is how long the VM may be down in a failover; 0 asks nothing. It is compared with what test failovers measured.
	RTO time.Duration `json:"rto_ns,omitempty"`
	// GuardLevel is the least level of the holder's guard at which a lease that ran out is evidence; 1 to 3.
	GuardLevel int `json:"guard_level,omitempty"`
	// Isolation is what happens to a VM that hears from no grantor.
	Isolation Isolation `json:"isolation,omitempty"`
	// OnStandbyLoss: "stay-leased", or "release" to mode sole so that the control plane may be lost too.
	OnStandbyLoss string `json:"on_standby_loss,omitempty"`
	// RecoverInPlace is how often within ten minutes a VM that crashed on a healthy host is started again there before it moves.
	RecoverInPlace int `json:"recover_in_place"`
	// Salvage bounds the time for reading the last delta off a dead VM's disk before it moves; 0 does not try.
	Salvage time.Duration `json:"salvage_ns,omitempty"`
	// Probes must pass before a failover counts as done.
	Probes []Probe `json:"probes,omitempty"`
	// Networks maps a network or bridge of the primary to one of the standby.
	Networks map[string]string `json:"networks,omitempty"`
	// BootEvery is how often a point is booted in isolation to prove it; 0 never.
	BootEvery time.Duration `json:"boot_every_ns,omitempty"`
	// MaxStall bounds the guest's pause of a capture, CPUShare the part of a core that captures may use; 0 is unbounded.
	MaxStall time.Duration `json:"max_stall_ns,omitempty"`
	CPUShare float64       `json:"cpu_share,omitempty"`
	// EncryptionAtRest is EncryptionRequired or empty.
	EncryptionAtRest string `json:"encryption_at_rest,omitempty"`
	// Calendar changes parts of this at certain hours; nil when there is none.
	Calendar *Calendar `json:"calendar,omitempty"`
}

// Probe asks a started guest whether it serves.
type Probe struct {
	Kind string `json:"kind"` // "agent", "tcp" or "command"
	// Address is HOST:PORT of a tcp probe, as the new host reaches it.
	Address string `json:"address,omitempty"`
	// Command is run on the new host, without a shell; it passes with exit code 0. UNDERSTUDY_VM and UNDERSTUDY_UUID are set.
	Command []string      `json:"command,omitempty"`
	Timeout time.Duration `json:"timeout_ns,omitempty"` // for it to pass, with retries; 0 is 60 s
}

// DefaultPolicy is used for whatever the user does not say.
func DefaultPolicy() Policy {
	return Policy{Version: 1, RPO: 30 * time.Second, Tier: Silver, KeepLast: 8, Failover: FailoverAuto, Compression: "auto",
		GuardLevel: 2, Isolation: IsolationFreeze, OnStandbyLoss: "stay-leased", RecoverInPlace: 1, Salvage: 10 * time.Second}
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
	case p.RecoverInPlace < 0 || p.RecoverInPlace > 10:
		return Fail(InvalidArgument, nil, "recover-in-place must be between 0 and 10, not %d", p.RecoverInPlace)
	case p.GuardLevel < 1 || p.GuardLevel > 3:
		return Fail(InvalidArgument, nil, "guard-level must be between 1 and 3, not %d", p.GuardLevel).WithTry("--isolation keep, to do without leases")
	case p.Hourly > 0 && p.RPO > time.Hour:
		return Fail(InvalidArgument, nil, "an RPO of %s does not make a point each hour to keep", p.RPO)
	}
	if p.EncryptionAtRest != "" && p.EncryptionAtRest != EncryptionRequired {
		return Fail(InvalidArgument, nil, "encryption-at-rest must be required or optional, not %q", p.EncryptionAtRest).WithTry("--encryption-at-rest required")
	}
	if err := p.validateCalendar(); err != nil {
		return err
	}
	if err := p.validateRestore(); err != nil {
		return err
	}
	if err := p.validateBudgets(); err != nil {
		return err
	}
	if err := oneOf("isolation", string(p.Isolation), string(IsolationFreeze), string(IsolationKill), string(IsolationKeep)); err != nil {
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
