package cli

import (
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"understudy/internal/model"
	"understudy/internal/policy"
	"understudy/internal/ui"
)

func policyFlags() []cli.Flag {
	d := model.DefaultPolicy()
	return []cli.Flag{
		&cli.StringFlag{Name: "policy", Usage: "`FILE` with the whole policy (docs/POLICY_FILE.md); the flags beside it override it"},
		&cli.DurationFlag{Name: "rpo", DefaultText: d.RPO.String(), Usage: "how much may be lost, as `TIME` (2s to 24h)"},
		&cli.StringFlag{Name: "tier", DefaultText: string(d.Tier), Usage: "gold, silver or bronze: who goes first when resources are short"},
		&cli.IntFlag{Name: "keep-last", DefaultText: "8", Usage: "`N` recovery points are kept"},
		&cli.StringFlag{Name: "failover", DefaultText: string(d.Failover), Usage: "who decides an unplanned failover: auto or manual"},
		&cli.IntFlag{Name: "recover-in-place", DefaultText: "1", Usage: "a VM that dies on a host that is well is started again there up to `N` times in ten minutes before it moves"},
		&cli.StringFlag{Name: "isolation", DefaultText: string(d.Isolation), Usage: "what the guard does to a VM whose host hears from nobody: freeze, kill, or keep (then a silent host needs a fence or a person)"},
		&cli.IntFlag{Name: "guard-level", DefaultText: "2", Usage: "least `LEVEL` of the host's guard at which a lease that ran out is evidence: 1 process, 2 softdog, 3 hardware watchdog"},
		&cli.DurationFlag{Name: "rto", DefaultText: "none", Usage: "how long the VM may be down in a failover, as `TIME`: test failovers are compared with it; 0 for none"},
		&cli.DurationFlag{Name: "boot-every", DefaultText: "never", Usage: "boot a point in isolation each `TIME` (10m to 720h); 0 for never"},
		&cli.DurationFlag{Name: "salvage", DefaultText: d.Salvage.String(), Usage: "read the last writes off a dead VM's disks for at most `TIME` before it moves; 0 does not try"},
		&cli.DurationFlag{Name: "max-stall", DefaultText: "unbounded", Usage: "the guest may stand still for `TIME` in a capture; after a longer one its file systems are not frozen for a while; 0 for unbounded"},
		&cli.StringFlag{Name: "cpu", DefaultText: "unbounded", Usage: "captures use about `SHARE` of one core, for example 25%, unless the RPO needs more; 0 for unbounded"},
		&cli.StringFlag{Name: "encryption-at-rest", DefaultText: "optional", Usage: "required: only a standby whose state folder is on dm-crypt may hold replicas and take over; or optional"},
		&cli.BoolFlag{Name: "freeze", Usage: "freeze the guest's file systems around a snapshot (needs its guest agent)"},
		&cli.StringFlag{Name: "bandwidth", DefaultText: "unbounded", Usage: "at most `SIZE` a second on the link, for example 12MB or 10MiB; 0 for unbounded"},
		&cli.StringFlag{Name: "compression", DefaultText: d.Compression, Usage: "auto, off, fast, default or best"},
	}
}

// policyFrom is p, or the policy file in its place, with what the flags say; validated before anybody is asked.
func policyFrom(c *cli.Context, p model.Policy, now time.Time) (model.Policy, error) {
	if c.IsSet("policy") {
		var err error
		if p, err = policy.Load(c.String("policy"), now); err != nil {
			return p, err
		}
	}
	if c.IsSet("rpo") {
		p.RPO = c.Duration("rpo")
	}
	if c.IsSet("tier") {
		p.Tier = model.Tier(c.String("tier"))
	}
	if c.IsSet("keep-last") {
		p.KeepLast = c.Int("keep-last")
	}
	if c.IsSet("failover") {
		p.Failover = model.FailoverMode(c.String("failover"))
	}
	if c.IsSet("recover-in-place") {
		p.RecoverInPlace = c.Int("recover-in-place")
	}
	if c.IsSet("isolation") {
		p.Isolation = model.Isolation(c.String("isolation"))
	}
	if c.IsSet("guard-level") {
		p.GuardLevel = c.Int("guard-level")
	}
	for name, to := range map[string]*time.Duration{"rto": &p.RTO, "boot-every": &p.BootEvery, "salvage": &p.Salvage, "max-stall": &p.MaxStall} {
		if c.IsSet(name) {
			*to = c.Duration(name)
		}
	}
	if c.IsSet("cpu") {
		n, err := strconv.ParseFloat(strings.TrimSuffix(c.String("cpu"), "%"), 64)
		if err != nil || n != 0 && !strings.HasSuffix(c.String("cpu"), "%") {
			return p, model.Fail(model.InvalidArgument, nil, "cpu: %q is not a share of one core", c.String("cpu")).WithTry("--cpu 25%")
		}
		p.CPUShare = n / 100
	}
	if c.IsSet("encryption-at-rest") {
		if p.EncryptionAtRest = c.String("encryption-at-rest"); p.EncryptionAtRest == "optional" {
			p.EncryptionAtRest = ""
		}
	}
	if c.IsSet("freeze") {
		p.Freeze = c.Bool("freeze")
	}
	if c.IsSet("compression") {
		p.Compression = c.String("compression")
	}
	if c.IsSet("bandwidth") {
		n, err := ui.ParseBytes(c.String("bandwidth"))
		if err != nil {
			return p, model.Fail(model.InvalidArgument, nil, "bandwidth: %s", err.Error()).WithTry("--bandwidth 12MB")
		}
		p.MaxBandwidth = n
	}
	return p, p.Validate()
}
