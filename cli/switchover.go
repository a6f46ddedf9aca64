package cli

import (
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"understudy/internal/contract"
	"understudy/internal/model"
	"understudy/internal/ui"
)

const maxPauseFlag = "max-pause"

func moveFlags(more ...cli.Flag) []cli.Flag {
	return append([]cli.Flag{
		yesFlag(),
		&cli.StringFlag{Name: "reason", Value: "asked for by a person", Usage: "`TEXT` for the history"},
		&cli.DurationFlag{Name: maxPauseFlag, Value: 2 * time.Minute, Usage: "`TIME` after which the VM goes on where it is, whatever hangs"},
		&cli.BoolFlag{Name: "no-wait", Usage: "return as soon as the switchover runs"},
	}, more...)
}

func (e *env) switchoverCommand() *cli.Command {
	return e.command(verb{
		name: "switchover", usage: "move a VM to its standby without losing anything (planned)", args: "VM",
		about: `Points are made until little is left; then the VM is paused, a last point is made and proved, the old copy gives up while it
is still paused, and the VM starts on the standby from that point: it boots, its memory does not move. The hosts swap roles.
Whatever fails before the start, the VM goes on where it was. The command follows it to the end and prints the downtime;
Ctrl-C stops the watching, not the switchover.`,
		example: "understudy switchover db1\nunderstudy switchover --yes --max-pause 30s db1",
		exits:   []int{exitNotFound, exitConflict, exitUnsafe},
		flags:   moveFlags(),
		do:      switchover,
	})
}

func switchover(c *call) error {
	if err := validPause(c); err != nil {
		return err
	}
	d, closing, err := c.find()
	defer closing()
	if err != nil {
		return err
	}
	if err := c.sure(fmt.Sprintf("Restart %s on %s? Nothing is lost, but the VM boots anew.", d.Spec.VM.Name, d.State.Standby)); err != nil {
		return err
	}
	return move(c, d, contract.SwitchoverRequestIn{By: c.who, Reason: c.String("reason"), MaxPause: c.Duration(maxPauseFlag)})
}

func validPause(c *call) error {
	if d := c.Duration(maxPauseFlag); d < time.Second || d > time.Hour {
		return model.Fail(model.InvalidArgument, nil, "--%s must be between 1s and 1h, not %s", maxPauseFlag, d).WithTry("--max-pause 2m")
	}
	return nil
}

// move asks for a switchover and follows it. The points before the pause are made first, which can take a while.
func move(c *call, d contract.DescribeOut, in contract.SwitchoverRequestIn) error {
	vm, ctx := d.Spec.VM, c.Context.Context
	asked, err := showing(c, vm, func() (contract.FailoverRequestOut, error) { return c.s.RequestSwitchover(ctx, vm, in) })
	if err != nil {
		return leaving(ctx, err, "the switchover may have been asked for. Try: understudy status %s", vm.Name)
	}
	if c.Bool("no-wait") {
		if c.output == ui.Table {
			return c.line("the switchover of %s runs: %s. Follow it: understudy status --watch %s", vm.Name, asked.WorkflowID, vm.Name)
		}
		return ui.Print(c.out, c.output, failoverView{
			MessageType: "failover", VM: vm.Name, WorkflowID: asked.WorkflowID, Generation: uint64(asked.Generation), Planned: true,
			From: d.State.Primary, To: d.State.Standby, Reason: in.Reason, Steps: []stepView{},
		})
	}
	brief, err := followed(ctx, c, vm, asked.WorkflowID, "switchover")
	if err != nil {
		return err
	}
	if err := concluded(c, vm, brief); err != nil || c.output != ui.Table || brief.Result == nil {
		return err
	}
	return c.line("nothing was lost; nothing ran for %s", ui.Duration(brief.Result.Downtime))
}
