package model

import "time"

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
	if p.CPUShare != 0 && !(p.CPUShare >= MinCPUShare && p.CPUShare <= MaxCPUShare) { // also NaN
		return Fail(InvalidArgument, nil, "the CPU budget must be between %g%% and %g%% of one core", 100*MinCPUShare, 100*MaxCPUShare)
	}
	return nil
}
