package cli

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"understudy/internal/contract"
	"understudy/internal/model"
	"understudy/internal/simulate"
	"understudy/internal/ui"
)

func (e *env) protectCommand() *cli.Command {
	return e.command(verb{
		name: "protect", usage: "replicate a VM to a standby host from now on", args: "VM",
		about: `Finds the VM on its host, checks both hosts and begins with the first full copy (seeding). With --wait it shows
the copy and returns when the first point is verified; Ctrl-C then stops the watching, not the work.`,
		example: "understudy protect --standby kvm2 --rpo 30s --wait db1\nunderstudy protect --standby kvm2 --rpo 10s --failover manual --bandwidth 12MB db1\nunderstudy protect --standby kvm2 --policy db.yaml db1",
		exits:   []int{exitNotFound, exitConflict, exitUnsafe},
		flags: append([]cli.Flag{
			&cli.StringFlag{Name: "standby", Usage: "`HOST` that keeps the replica and takes over"},
			&cli.StringFlag{Name: "primary", Aliases: []string{"host"}, Usage: "`HOST` the VM is on (default: all hosts are asked)"},
			&cli.StringFlag{Name: "trace", Usage: "`FILE` recorded by understudy trace: what the VM asks of the link, instead of a short look at it"},
			&cli.BoolFlag{Name: "force", Usage: "protect also when the primary's link cannot carry it beside the others"},
			&cli.BoolFlag{Name: "wait", Usage: "wait until the first point is verified"},
		}, policyFlags()...),
		do: protect,
	})
}

func protect(c *call) error {
	name, err := c.vm()
	if err != nil {
		return err
	}
	policy, err := policyFrom(c.Context, model.DefaultPolicy(), c.now())
	if err != nil {
		return err
	}
	admission := contract.AdmissionIn{Force: c.Bool("force")}
	if file := c.String("trace"); file != "" {
		if admission.Demand, err = demandOf(file, policy.RPO); err != nil {
			return err
		}
		if strictest, window := policy.Strictest(); window != "" {
			if admission.Strict, err = demandOf(file, strictest.RPO); err != nil {
				return err
			}
		}
	}
	standby, primary := model.HostID(c.String("standby")), model.HostID(c.String("primary"))
	if err := hostFlags(standby, primary, name); err != nil {
		return err
	}
	closing, err := c.reach()
	if err != nil {
		return err
	}
	defer closing()
	ctx := c.Context.Context
	if _, err := c.s.Host(ctx, standby); err != nil {
		return err
	}
	facts, found, err := c.s.Locate(ctx, name, primary)
	if err != nil {
		return err
	}
	if found == standby {
		return model.Fail(model.InvalidArgument, nil, "the VM is on %s itself: the standby must be another host", standby).WithVM(name).
			WithTry("understudy hosts")
	}
	d, err := c.s.EnsureProtected(ctx, contract.ProtectSpec{VM: facts.VM, Primary: found, Standby: standby, Policy: policy, Admission: admission})
	if err != nil {
		return leaving(ctx, err, "the checks of %s go on. Try: understudy status %s", name, name)
	}
	c.warnOf(policy)
	for _, w := range d.State.Warnings {
		fmt.Fprintf(c.err, "warning: %s\n", w)
	}
	if c.Bool("wait") {
		if d, err = seeded(ctx, c, d); err != nil {
			return err
		}
		return c.show(fmt.Sprintf("%s is protected: %s to %s, RPO %s, point %d verified. Watch it: understudy status --watch %s",
			facts.VM.Name, found, standby, ui.Duration(policy.RPO), d.State.Committed.Seq, facts.VM.Name), d)
	}
	return c.show(fmt.Sprintf("%s is being copied from %s to %s (RPO %s). Watch it: understudy status --watch %s", facts.VM.Name, found, standby, ui.Duration(policy.RPO), facts.VM.Name), d)
}

// demandOf is what a recorded VM sends when it is captured each half of its RPO: that of all but the busiest twentieth of the
// trace, which is what bursts are.
func demandOf(file string, rpo time.Duration) (int64, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, model.Fail(model.NotFound, err, "there is no trace %q", file).WithTry("understudy trace --for 10m VM > " + file)
	}
	defer f.Close()
	t, err := simulate.ReadCSV(file, f)
	if err != nil {
		return 0, err
	}
	if t.Seconds < rpo.Seconds() {
		return 0, model.Fail(model.InvalidArgument, nil, "the trace of %.0f s is shorter than the RPO of %s: it says too little", t.Seconds, rpo).
			WithTry("understudy trace --for " + (10 * rpo).String() + " VM")
	}
	return max(int64(t.Demand(rpo.Seconds()/2)), 1), nil
}

func hostFlags(standby, primary model.HostID, vm string) error {
	switch {
	case standby == "":
		return model.Fail(model.InvalidArgument, nil, "--standby is missing").WithVM(vm).WithTry("understudy protect --standby HOST " + vm)
	case !model.ValidHostID(standby):
		return model.Fail(model.InvalidArgument, nil, "%q cannot name a host", standby).WithVM(vm).WithTry("understudy hosts")
	case primary != "" && !model.ValidHostID(primary):
		return model.Fail(model.InvalidArgument, nil, "%q cannot name a host", primary).WithVM(vm).WithTry("understudy hosts")
	case standby == primary:
		return model.Fail(model.InvalidArgument, nil, "the standby must be another host than the primary").WithVM(vm).WithTry("understudy hosts")
	}
	return nil
}

// patience is how long a watcher goes on while the control plane does not answer: it may be restarting.
const patience = 2 * time.Minute

// seeded watches until the first point is verified.
func seeded(ctx context.Context, c *call, d contract.DescribeOut) (contract.DescribeOut, error) {
	vm := d.Spec.VM
	bar := c.progress()
	defer bar.Done()
	note := fmt.Sprintf("the copy of %s goes on. Try: understudy status --watch %s", vm.Name, vm.Name)
	heard := c.now()
	for {
		switch {
		case !d.State.Committed.IsZero():
			return d, nil
		case d.State.Failed != "":
			return d, model.Fail(model.Internal, nil, "%s", d.State.Failed).WithVM(vm.Name).WithHost(d.State.Primary).
				WithTry("understudy status " + vm.Name)
		}
		progress, err := c.s.Progress(ctx, vm)
		if err == nil {
			bar.Show("%s", copyLine(d, progress, c.now()))
		}
		select {
		case <-ctx.Done():
			return d, interrupted{note}
		case <-time.After(c.tick):
		}
		next, err := c.s.Describe(ctx, vm.UUID)
		switch {
		case err == nil:
			d, heard = next, c.now()
		case ctx.Err() != nil:
			return d, interrupted{note}
		case model.KindOf(err) != model.Unreachable || c.now().Sub(heard) > patience:
			return d, err
		default:
			bar.Show("%s: the control plane does not answer, asking again", vm.Name)
		}
	}
}
