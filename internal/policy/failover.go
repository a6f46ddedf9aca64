package policy

import (
	"net"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"understudy/internal/model"
)

const (
	wantCPU  = "a share of one core with a percent sign, for example 25%"
	wantNet  = "the name of a network or bridge"
	wantWord = "a word of at most 200 characters"

	daily = 24 * time.Hour

	maxProbes   = 8
	maxNetworks = 32

	probeAgent   = "agent"
	probeTCP     = "tcp"
	probeCommand = "command"
)

func modes() []string { return []string{string(model.FailoverAuto), string(model.FailoverManual)} }

// failover is the mapping below failover.
func failover() []field {
	return []field{
		{name: "mode", doc: "Who decides an unplanned failover.", enum: modes(), set: func(d *decoder, n *yaml.Node) { d.p.Failover = model.FailoverMode(n.Value) }},
		{name: "isolation", doc: "What the guard does to a VM whose host hears from nobody: freeze or kill it, or keep it running (then a silent host needs a fence or a person).",
			enum: []string{string(model.IsolationFreeze), string(model.IsolationKill), string(model.IsolationKeep)},
			set:  func(d *decoder, n *yaml.Node) { d.p.Isolation, d.isolationAt = model.Isolation(n.Value), n }},
		{name: "guard-level", doc: "Least level of the host's guard at which a lease that ran out is evidence: 1 process, 2 softdog, 3 hardware watchdog.", min: 1, max: 3,
			set: func(d *decoder, n *yaml.Node) {
				number(func(d *decoder, v int) { d.p.GuardLevel = v })(d, n)
				d.levelAt = n
			}},
		{name: "on-standby-loss", doc: "stay-leased: the VM stays bound to a lease of the control plane while its standby is lost. release: it is unbound after a while, so that the control plane may be lost too.",
			enum: []string{"stay-leased", "release"}, set: func(d *decoder, n *yaml.Node) { d.p.OnStandbyLoss = n.Value }},
		{name: "recover-in-place", doc: "How often within ten minutes a VM that died on a host that is well is started again there before it moves.", min: 0, max: 10,
			set: number(func(d *decoder, v int) { d.p.RecoverInPlace = v })},
		{name: "salvage", doc: "At most so long the last writes are read off a dead VM's disks before it moves; 0s does not try.", pattern: timePattern, want: wantTime, set: setSalvage},
		{name: "probes", doc: "All must pass before a failover, or a test failover, counts as done; together they take at most 8m.", list: true, limit: maxProbes, inner: probe(), set: (*decoder).probes},
		{name: "networks", doc: "Network or bridge of the primary: the one of the standby.", pairs: true, limit: maxNetworks, pattern: netPattern, want: wantNet, set: setNetworks},
	}
}

func probe() []field {
	return []field{
		{name: "kind", doc: "agent: the guest agent answers; tcp: a port opens; command: a command on the standby's host ends with 0.", needed: true,
			enum: []string{probeAgent, probeTCP, probeCommand}, set: func(d *decoder, n *yaml.Node) { d.probe.Kind = n.Value }},
		{name: "address", doc: "HOST:PORT of a tcp probe.", pattern: wordPattern, want: wantWord, set: func(d *decoder, n *yaml.Node) { d.probe.Address = n.Value }},
		{name: "command", doc: "Of a command probe: path and arguments, without a shell.", list: true, limit: 32, repeats: true, pattern: wordPattern, want: wantWord,
			set: func(d *decoder, n *yaml.Node) {
				for _, item := range n.Content {
					d.probe.Command = append(d.probe.Command, item.Value)
				}
			}},
		{name: "timeout", doc: "For it to pass, with retries; 60s when absent.", pattern: timePattern, want: wantTime, set: func(d *decoder, n *yaml.Node) {
			if v, ok := d.within(n, "a probe's timeout", time.Second, 8*time.Minute); ok {
				d.probe.Timeout = v
			}
		}},
	}
}

// probes reads each probe; what its kind needs is known when it was read.
func (d *decoder) probes(n *yaml.Node) {
	for i, item := range n.Content {
		before := len(d.problems)
		path := "failover.probes[" + strconv.Itoa(i) + "]"
		d.probe = &model.Probe{}
		if d.plain(item) {
			d.mapping(item, path, probe())
		}
		p := *d.probe
		d.probe = nil
		if len(d.problems) > before {
			continue
		}
		switch host, port, err := net.SplitHostPort(p.Address); {
		case p.Kind == probeTCP && (err != nil || host == "" || port == ""):
			d.fail(item, "%s: a tcp probe needs an address HOST:PORT", path)
		case p.Kind != probeTCP && p.Address != "":
			d.fail(child(item, "address"), "%s: only a tcp probe has an address", path)
		case p.Kind == probeCommand && (len(p.Command) == 0 || !strings.HasPrefix(p.Command[0], "/")):
			d.fail(item, "%s: a command probe needs a command that begins with a full path", path)
		case p.Kind != probeCommand && p.Command != nil:
			d.fail(child(item, "command"), "%s: only a command probe has a command", path)
		default:
			d.p.Probes = append(d.p.Probes, p)
		}
	}
}

func setMode(d *decoder, n *yaml.Node) {
	if n.Kind == yaml.ScalarNode {
		d.p.Failover = model.FailoverMode(n.Value)
	}
}

func setVerification(d *decoder, n *yaml.Node) {
	if n.Kind == yaml.ScalarNode && n.Value == "boot" {
		d.p.BootEvery = daily
	}
}

func setBootEvery(d *decoder, n *yaml.Node) {
	if v, ok := d.within(n, "verification.boot", model.MinBootEvery, model.MaxBootEvery); ok {
		d.p.BootEvery = v
	}
}

func setRTO(d *decoder, n *yaml.Node) {
	if v, ok := d.within(n, "an RTO", model.MinRTO, model.MaxRTO); ok {
		d.p.RTO = v
	}
}

func setSalvage(d *decoder, n *yaml.Node) {
	if v, ok := d.within(n, "failover.salvage", 0, model.MaxSalvage); ok {
		d.p.Salvage, d.salvageAt = v, n
	}
}

func setStall(d *decoder, n *yaml.Node) {
	if v, ok := d.within(n, "budgets.stall", model.MinStall, model.MaxStallBudget); ok {
		d.p.MaxStall = v
	}
}

func setCPU(d *decoder, n *yaml.Node) {
	v, err := strconv.ParseFloat(strings.TrimSuffix(n.Value, "%"), 64)
	if v /= 100; err != nil || v < model.MinCPUShare || v > model.MaxCPUShare {
		d.fail(n, "budgets.cpu is between %g%% and %g%% of one core, not %s", 100*model.MinCPUShare, 100*model.MaxCPUShare, n.Value)
		return
	}
	d.p.CPUShare = v
}

func setNetworks(d *decoder, n *yaml.Node) {
	d.p.Networks = map[string]string{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		d.p.Networks[n.Content[i].Value] = n.Content[i+1].Value
	}
}

// within reads a time with bounds.
func (d *decoder) within(n *yaml.Node, what string, least, most time.Duration) (time.Duration, bool) {
	v, err := time.ParseDuration(n.Value)
	if err != nil || v < least || v > most {
		d.fail(n, "%s is between %s and %s, not %s", what, short(least), short(most), n.Value)
		return 0, false
	}
	return v, true
}
