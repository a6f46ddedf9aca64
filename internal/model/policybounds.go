package model

import (
	"net"
	"strings"
	"time"
)

// Bounds of what a policy may ask for; the parser of policy files says them with their lines.
const (
	MinRTO         = time.Second
	MaxRTO         = 24 * time.Hour
	MinBootEvery   = 10 * time.Minute
	MaxBootEvery   = 30 * 24 * time.Hour
	MaxSalvage     = 10 * time.Minute
	MinStall       = 5 * time.Millisecond
	MaxStallBudget = 10 * time.Second
	MinCPUShare    = 0.01
	MaxCPUShare    = 8.0
	MaxProbes      = 8
	MaxNetworks    = 32
)

// Kinds of a Probe.
const (
	ProbeAgent   = "agent"
	ProbeTCP     = "tcp"
	ProbeCommand = "command"
)

func (p Policy) validateBudgets() error {
	between := func(what string, v, least, most time.Duration, try string) error {
		if v == 0 || v >= least && v <= most {
			return nil
		}
		return Fail(InvalidArgument, nil, "%s must be between %s and %s, not %s", what, least, most, v).WithTry(try)
	}
	for _, err := range []error{
		between("rto", p.RTO, MinRTO, MaxRTO, "--rto 5m"),
		between("boot verification", p.BootEvery, MinBootEvery, MaxBootEvery, "--boot-every 24h"),
		between("salvage", p.Salvage, 0, MaxSalvage, "--salvage 10s"),
		between("the stall budget", p.MaxStall, MinStall, MaxStallBudget, "--max-stall 100ms"),
	} {
		if err != nil {
			return err
		}
	}
	switch {
	case p.CPUShare != 0 && !(p.CPUShare >= MinCPUShare && p.CPUShare <= MaxCPUShare): // also NaN
		return Fail(InvalidArgument, nil, "the CPU budget must be between %g%% and %g%% of one core", 100*MinCPUShare, 100*MaxCPUShare)
	case p.OnStandbyLoss != "" && p.OnStandbyLoss != "stay-leased":
		return Fail(InvalidArgument, nil, "on-standby-loss %q is not done by this version", p.OnStandbyLoss)
	case len(p.Networks) > MaxNetworks:
		return Fail(InvalidArgument, nil, "at most %d networks can be mapped", MaxNetworks)
	}
	return nil
}

func (p Policy) validateProbes() error {
	if len(p.Probes) > MaxProbes {
		return Fail(InvalidArgument, nil, "at most %d probes, not %d", MaxProbes, len(p.Probes))
	}
	for _, x := range p.Probes {
		if err := x.validate(); err != nil {
			return err
		}
	}
	return nil
}

func (x Probe) validate() error {
	switch x.Kind {
	case ProbeAgent:
	case ProbeTCP:
		if host, port, err := net.SplitHostPort(x.Address); err != nil || host == "" || port == "" {
			return Fail(InvalidArgument, nil, "a tcp probe needs an address HOST:PORT, not %q", x.Address)
		}
	case ProbeCommand:
		if len(x.Command) == 0 || !strings.HasPrefix(x.Command[0], "/") {
			return Fail(InvalidArgument, nil, "a command probe needs a command that begins with a full path")
		}
	default:
		return Fail(InvalidArgument, nil, "there is no probe %q; there are agent, tcp and command", x.Kind)
	}
	if x.Timeout < 0 || x.Timeout > time.Hour {
		return Fail(InvalidArgument, nil, "a probe's timeout must be between 0 and 1h, not %s", x.Timeout)
	}
	return nil
}
