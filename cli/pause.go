package cli

import (
	"github.com/urfave/cli/v2"

	"understudy/internal/contract"
)

func (e *env) pauseCommand() *cli.Command {
	return e.command(verb{
		name: "pause", usage: "stop making recovery points until resume", args: "VM",
		about:   `The points that exist stay and a failover is still possible; the exposure grows meanwhile.`,
		example: "understudy pause --reason 'disk maintenance' db1",
		exits:   []int{exitNotFound, exitConflict},
		flags:   []cli.Flag{&cli.StringFlag{Name: "reason", Usage: "`TEXT` for the history and for status"}},
		do: func(c *call) error {
			d, closing, err := c.find()
			defer closing()
			if err != nil {
				return err
			}
			d, err = c.s.Pause(c.Context.Context, d.Spec.VM, contract.PauseIn{By: c.who, Reason: c.String("reason")})
			if err != nil {
				return err
			}
			return c.show("the protection of "+d.Spec.VM.Name+" is paused. Go on with: understudy resume "+d.Spec.VM.Name, d)
		},
	})
}
