package cli

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"understudy/internal/contract"
	"understudy/internal/model"
	"understudy/internal/ui"
)

func (e *env) commitCommand() *cli.Command {
	return e.command(verb{
		name: "commit", usage: "keep a VM where a held failover started it", args: "VM",
		about: `Ends the probation of a failover that was asked for with --hold: the VM stays on its new host, and the old one becomes the
standby. Nothing of the VM stops.`,
		example: "understudy commit db1",
		exits:   []int{exitNotFound, exitConflict},
		flags:   []cli.Flag{&cli.StringFlag{Name: "reason", Value: "decided by a person", Usage: "`TEXT` for the history"}},
		do: func(c *call) error {
			d, closing, err := c.find()
			defer closing()
			if err != nil {
				return err
			}
			return conclude(c, d, contract.OrderCommit)
		},
	})
}

func (e *env) rollbackCommand() *cli.Command {
	return e.command(verb{
		name: "rollback", usage: "take a held failover back", args: "VM",
		about: `Stops the VM that a failover with --hold started, throws away what it wrote since, and lets the old host go on. A copy that the
failover had stopped there is started again. Where the old host is not heard, the VM is down until it returns; nothing moves by
itself before understudy resume.`,
		example: "understudy rollback db1\nunderstudy rollback --yes db1",
		exits:   []int{exitNotFound, exitConflict},
		flags:   []cli.Flag{yesFlag(), &cli.StringFlag{Name: "reason", Value: "decided by a person", Usage: "`TEXT` for the history"}},
		do: func(c *call) error {
			d, closing, err := c.find()
			defer closing()
			if err != nil {
				return err
			}
			if f := d.State.Failover; f != nil {
				question := fmt.Sprintf("Stop %s on %s and throw away what it wrote there? ", d.Spec.VM.Name, f.To)
				if d.State.HostSilent[string(f.From)] {
					question += fmt.Sprintf("%s is not heard: the VM is DOWN until it returns.", f.From)
				}
				if err := c.sure(question); err != nil {
					return err
				}
			}
			return conclude(c, d, contract.OrderRollback)
		},
	})
}

// conclude says what a person decided and waits for the end.
func conclude(c *call, d contract.DescribeOut, kind string) error {
	vm, ctx := d.Spec.VM, c.Context.Context
	bar := c.progress()
	bar.Show("%s: %s", vm.Name, kind)
	brief, err := c.s.Conclude(ctx, vm, contract.FailoverOrder{Kind: kind, By: c.who, Reason: c.String("reason")})
	bar.Done()
	if err != nil {
		return leaving(ctx, err, "it may have been decided. Try: understudy status %s", vm.Name)
	}
	if brief.Outcome != contract.OutcomeRolledBack || kind == contract.OrderCommit {
		return concluded(c, vm, brief)
	}
	if c.output != ui.Table {
		v := failoverOf(brief)
		v.MessageType, v.VM = "failover", vm.Name
		return ui.Print(c.out, c.output, v)
	}
	return c.line("the failover of %s was taken back: %s may run it, under generation %d. Try: understudy status %s", vm.Name, brief.From, handedBack(brief), vm.Name)
}

func handedBack(f contract.FailoverBrief) model.Generation {
	if f.Result != nil && f.Result.HandedBackGeneration > 0 {
		return f.Result.HandedBackGeneration
	}
	return f.Generation
}

// abandon ends a failover that has proved nothing yet, or the tries after one that came to nothing.
func abandon(c *call, d contract.DescribeOut) error {
	vm := d.Spec.VM
	if err := c.sure(fmt.Sprintf("Leave %s as it is, and start no failover before understudy resume?", vm.Name)); err != nil {
		return err
	}
	if f := d.State.Failover; f != nil && f.Outcome == "" {
		return conclude(c, d, contract.OrderAbandon)
	}
	brief, err := c.s.Conclude(c.Context.Context, vm, contract.FailoverOrder{Kind: contract.OrderAbandon, By: c.who, Reason: c.String("reason")})
	if err != nil {
		return err
	}
	if c.output != ui.Table {
		v := failoverOf(brief)
		v.MessageType, v.VM = "failover", vm.Name
		return ui.Print(c.out, c.output, v)
	}
	return c.line("%s is left alone until understudy resume %s", vm.Name, vm.Name)
}
