package cli

import (
	"github.com/urfave/cli/v2"

	"understudy/internal/contract"
)

func (e *env) resumeCommand() *cli.Command {
	return e.command(verb{
		name: "resume", usage: "go on after pause, or after a failure that a person dealt with", args: "VM",
		about:   `Also tells a protection in the phase Failed that its cause is gone.`,
		example: "understudy resume db1",
		exits:   []int{exitNotFound, exitConflict},
		do: func(c *call) error {
			d, closing, err := c.find()
			defer closing()
			if err != nil {
				return err
			}
			d, err = c.s.Resume(c.Context.Context, d.Spec.VM, contract.ResumeIn{By: c.who})
			if err != nil {
				return err
			}
			return c.show("the protection of "+d.Spec.VM.Name+" goes on", d)
		},
	})
}
