package cli

import (
	"strings"

	"github.com/urfave/cli/v2"

	"understudy/internal/contract"
	"understudy/internal/model"
	"understudy/internal/ui"
)

// verb describes a command that asks the control plane.
type verb struct {
	name, usage string
	args        string // for the help; empty when the command takes none
	about       string
	example     string
	exits       []int // beside 0, 20, 64 and 130
	flags       []cli.Flag
	do          func(*call) error
}

// call is one invocation of a verb.
type call struct {
	*cli.Context
	*env
	s      service
	output ui.Output
}

func (e *env) command(v verb) *cli.Command {
	codes := append([]int{exitDone, exitFailed, exitUnreachable, exitUsage, exitInterrupted}, v.exits...)
	return &cli.Command{
		Name: v.name, Usage: v.usage, ArgsUsage: v.args,
		Description: v.about + "\n\nEXAMPLE\n   " + strings.ReplaceAll(v.example, "\n", "\n   ") + "\n\n" + exitStatus(codes...),
		Flags: append(v.flags,
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "`FORMAT` of the result: table, json or jsonl"},
			&cli.StringFlag{Name: "temporal-address", EnvVars: []string{"UNDERSTUDY_TEMPORAL_ADDRESS"}, Value: "127.0.0.1:7233", Usage: "Temporal frontend, `HOST:PORT`"},
			&cli.StringFlag{Name: "tls-dir", EnvVars: []string{"UNDERSTUDY_TLS_DIR"}, Usage: "`FOLDER` with the operator's ca.crt, tls.crt and tls.key; without it nothing is encrypted"},
			&cli.StringFlag{Name: "namespace", EnvVars: []string{"UNDERSTUDY_NAMESPACE"}, Value: contract.Namespace, Usage: "Temporal namespace"},
		),
		BashComplete: e.complete(v),
		Action: func(c *cli.Context) error {
			output, err := ui.ParseOutput(c.String("output"))
			if err != nil {
				return model.Fail(model.InvalidArgument, nil, "%s", err.Error()).WithTry("--output json")
			}
			return v.do(&call{Context: c, env: e, output: output})
		},
	}
}

// reach connects to the control plane; a command checks its arguments before.
func (c *call) reach() (func(), error) {
	s, err := c.connect(c.Context.Context, target{c.String("temporal-address"), c.String("namespace"), c.String("tls-dir")})
	if err != nil {
		return func() {}, err
	}
	c.s = s
	return func() {
		s.Settle(c.Context.Context)
		s.Close()
	}, nil
}

// vm is the sole argument.
func (c *call) vm() (string, error) {
	switch {
	case c.NArg() == 0:
		return "", model.Fail(model.InvalidArgument, nil, "%s needs the name or UUID of a VM", c.Command.Name).
			WithTry("understudy " + c.Command.Name + " VM")
	case c.NArg() > 1:
		return "", model.Fail(model.InvalidArgument, nil, "%s takes one VM, not %q", c.Command.Name, c.Args().Slice()).
			WithTry("understudy " + c.Command.Name + " " + c.Args().First())
	case strings.TrimSpace(c.Args().First()) == "":
		return "", model.Fail(model.InvalidArgument, nil, "the VM's name is empty")
	}
	return c.Args().First(), nil
}

// find connects and looks the protection of the sole argument up.
func (c *call) find() (contract.DescribeOut, func(), error) {
	vm, err := c.vm()
	if err != nil {
		return contract.DescribeOut{}, func() {}, err
	}
	closing, err := c.reach()
	if err != nil {
		return contract.DescribeOut{}, closing, err
	}
	d, err := c.s.Find(c.Context.Context, vm)
	return d, closing, err
}

// sure asks a person; without one, --yes has to say it.
func (c *call) sure(question string) error {
	switch {
	case c.Bool("yes"):
		return nil
	case !c.interactive:
		return model.Fail(model.InvalidArgument, nil, "%s asks for a confirmation and nobody can answer here", c.Command.Name).
			WithTry("understudy " + c.Command.Name + " --yes " + c.Args().First())
	case !ui.Confirm(c.in, c.err, question):
		return interrupted{"nothing was done"}
	}
	return nil
}

func yesFlag() cli.Flag {
	return &cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask for confirmation"}
}

func (c *call) progress() *ui.Progress {
	return ui.NewProgress(c.err, c.errTerminal, c.now)
}

// show prints one protection as the answer of a command that changed it.
func (c *call) show(said string, d contract.DescribeOut) error {
	p := viewOf(d, c.now())
	if c.output == ui.Table {
		return c.line("%s", said)
	}
	p.MessageType = "protection"
	return ui.Print(c.out, c.output, p)
}
