package model

import (
	"net"
	"path/filepath"
	"time"
)

// Bounds of what is asked of a guest after its start, and of what a start may change. All probes together have to end while the
// VM may still be taken back.
const (
	MaxProbes       = 8
	MaxNetworks     = 32
	ProbeTimeout    = time.Minute     // of one that does not say
	MaxProbeTimeout = 8 * time.Minute // of all of them
)

// Kinds of a Probe.
const (
	ProbeAgent   = "agent"
	ProbeTCP     = "tcp"
	ProbeCommand = "command"
)

// Limit is how long the probe may take.
func (x Probe) Limit() time.Duration {
	if x.Timeout <= 0 {
		return ProbeTimeout
	}
	return x.Timeout
}

func (x Probe) validate() error {
	switch x.Kind {
	case ProbeAgent:
	case ProbeTCP:
		if host, port, err := net.SplitHostPort(x.Address); err != nil || host == "" || port == "" {
			return Fail(InvalidArgument, nil, "a tcp probe needs an address HOST:PORT, not %q", x.Address)
		}
	case ProbeCommand:
		if len(x.Command) == 0 || !filepath.IsAbs(x.Command[0]) || filepath.Clean(x.Command[0]) != x.Command[0] {
			return Fail(InvalidArgument, nil, "a command probe names its program by an absolute path, not %q", x.Command)
		}
	default:
		return Fail(InvalidArgument, nil, "there is no probe %q; there are agent, tcp and command", x.Kind)
	}
	if x.Timeout < 0 {
		return Fail(InvalidArgument, nil, "the timeout of a probe must not be negative, it is %s", x.Timeout)
	}
	return nil
}

// validateRestore looks at what a policy says about starts.
func (p Policy) validateRestore() error {
	var sum time.Duration
	for _, x := range p.Probes {
		if err := x.validate(); err != nil {
			return err
		}
		sum += x.Limit()
	}
	switch {
	case len(p.Probes) > MaxProbes || sum > MaxProbeTimeout:
		return Fail(InvalidArgument, nil, "at most %d probes that take %s together, not %d and %s", MaxProbes, MaxProbeTimeout, len(p.Probes), sum)
	case len(p.Networks) > MaxNetworks:
		return Fail(InvalidArgument, nil, "at most %d networks are mapped", MaxNetworks)
	case p.OnStandbyLoss != "" && p.OnStandbyLoss != OnStandbyLossStay && p.OnStandbyLoss != OnStandbyLossRelease:
		return Fail(InvalidArgument, nil, "on-standby-loss is %s or %s, not %q", OnStandbyLossStay, OnStandbyLossRelease, p.OnStandbyLoss)
	}
	for from, to := range p.Networks {
		if from == "" || to == "" {
			return Fail(InvalidArgument, nil, "the network %q is mapped to %q: both need a name", from, to)
		}
	}
	return nil
}
