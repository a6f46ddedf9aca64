package cli

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"understudy/internal/model"
)

func (e *env) setPolicyCommand() *cli.Command {
	return e.command(verb{
		name: "set-policy", usage: "change what a protection promises", args: "VM",
		about:   `Only what is given changes, or all with --policy; it counts from the next decision on.`,
		example: "understudy set-policy --rpo 10s --tier gold db1",
		exits:   []int{exitNotFound, exitConflict, exitUnsafe},
		flags:   policyFlags(),
		do:      setPolicy,
	})
}

func setPolicy(c *call) error {
	given := false
	for _, f := range policyFlags() {
		given = given || c.IsSet(f.Names()[0])
	}
	if !given {
		return model.Fail(model.InvalidArgument, nil, "nothing to change was given").WithTry("understudy set-policy --rpo 30s " + c.Args().First())
	}
	if _, err := policyFrom(c.Context, model.DefaultPolicy(), c.now()); err != nil {
		return err // before anybody is asked
	}
	d, closing, err := c.find()
	defer closing()
	if err != nil {
		return err
	}
	policy, err := policyFrom(c.Context, d.State.Policy, c.now())
	if err != nil {
		return err
	}
	d, err = c.s.SetPolicy(c.Context.Context, d.Spec.VM, policy)
	if err != nil {
		return err
	}
	p := d.State.Policy
	return c.show(fmt.Sprintf("%s: policy %d: RPO %s, %s, failover %s, keep %d points", d.Spec.VM.Name, p.Version, p.RPO, p.Tier, p.Failover, p.KeepLast), d)
}
