package cli

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"understudy/internal/contract"
	"understudy/internal/model"
	"understudy/internal/recoveryplan"
	"understudy/internal/ui"
)

// planView is the documented JSON of `understudy plan`.
type planView struct {
	MessageType string     `json:"message_type"` // "plan"
	File        string     `json:"file"`
	Parallel    int        `json:"parallel"`
	WaitS       float64    `json:"wait_s"`
	Waves       [][]string `json:"waves"`
	// Of apply: VMs that have a place now, that lost theirs, and that the file names and nobody protects.
	Placed  []string `json:"placed"`
	Cleared []string `json:"cleared"`
	Unknown []string `json:"unknown"`
	Applied bool     `json:"applied"`
}

func (e *env) planCommand() *cli.Command {
	check := &cli.Command{
		Name: "check", Usage: "say whether a recovery plan can be carried out, and in which waves", ArgsUsage: "FILE",
		Description: "Asks nobody. docs/CLI.md has the format.\n\nEXAMPLE\n   understudy plan check plan.yaml\n\n" + exitStatus(exitDone, exitUsage),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "`FORMAT` of the result: table, json or jsonl"},
		},
		Action: func(c *cli.Context) error {
			output, err := ui.ParseOutput(c.String("output"))
			if err != nil {
				return model.Fail(model.InvalidArgument, nil, "%s", err.Error()).WithTry("--output json")
			}
			view, _, err := loadPlan(c)
			if err != nil {
				return err
			}
			return printPlan(&call{Context: c, env: e, output: output}, view)
		},
	}
	apply := e.command(verb{
		name: "apply", usage: "give every protected VM its place in the plan", args: "FILE",
		about: `The whole plan is replaced: a VM that the file does not name loses its place and starts by its tier alone. A VM that is named
and not protected is listed; applying again takes it in.`,
		example: "understudy plan apply plan.yaml",
		do:      applyPlan,
	})
	for _, c := range []*cli.Command{check, apply} {
		c.OnUsageError, c.HideHelpCommand, c.Action = usage, true, strict(c.Action)
	}
	return &cli.Command{
		Name: "plan", Usage: "order of the starts when a host died", ArgsUsage: "COMMAND",
		Description: "EXAMPLE\n   understudy plan apply plan.yaml\n\n" + exitStatus(exitDone, exitUsage),
		Subcommands: []*cli.Command{check, apply},
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return model.Fail(model.InvalidArgument, nil, "there is no command plan %s", c.Args().First()).WithTry("understudy plan check FILE")
			}
			return model.Fail(model.InvalidArgument, nil, "plan needs a command: check or apply").WithTry("understudy plan check FILE")
		},
	}
}

func loadPlan(c *cli.Context) (planView, recoveryplan.Plan, error) {
	if c.NArg() != 1 {
		return planView{}, recoveryplan.Plan{}, model.Fail(model.InvalidArgument, nil, "plan %s takes one file", c.Command.Name).WithTry("understudy plan check FILE")
	}
	p, err := recoveryplan.Load(c.Args().First())
	return planView{
		MessageType: "plan", File: c.Args().First(), Parallel: p.Parallel, WaitS: p.Wait.Seconds(), Waves: p.Waves(),
		Placed: []string{}, Cleared: []string{}, Unknown: []string{},
	}, p, err
}

func applyPlan(c *call) error {
	view, p, err := loadPlan(c.Context)
	if err != nil {
		return err
	}
	closing, err := c.reach()
	if err != nil {
		return err
	}
	defer closing()
	protections, err := c.s.List(c.Context.Context)
	if err != nil {
		return err
	}
	uuids := map[string]string{}
	twice := map[string]bool{}
	for _, d := range protections {
		twice[d.Spec.VM.Name] = twice[d.Spec.VM.Name] || uuids[d.Spec.VM.Name] != ""
		uuids[d.Spec.VM.Name] = d.Spec.VM.UUID
		uuids[d.Spec.VM.UUID] = d.Spec.VM.UUID
	}
	rules := map[string]*model.StartRule{}
	for _, v := range p.VMs {
		switch uuid := uuids[v.Name]; {
		case twice[v.Name]:
			return model.Fail(model.Conflict, nil, "two protected VMs are called %s", v.Name).WithTry("name it by its UUID in the plan")
		case uuid == "":
			view.Unknown = append(view.Unknown, v.Name)
		default:
			r := p.Rule(v, uuids)
			rules[uuid] = &r
		}
	}
	for _, d := range protections {
		vm, rule := d.Spec.VM, rules[d.Spec.VM.UUID]
		if rule == nil && d.State.Start == nil {
			continue
		}
		if _, err := c.s.SetStart(c.Context.Context, vm, contract.SetStartIn{Rule: rule, By: c.who}); err != nil {
			return err
		}
		if rule != nil {
			view.Placed = append(view.Placed, vm.Name)
		} else {
			view.Cleared = append(view.Cleared, vm.Name)
		}
	}
	view.Applied = true
	return printPlan(c, view)
}

func printPlan(c *call, v planView) error {
	if c.output != ui.Table {
		return ui.Print(c.out, c.output, v)
	}
	for i, wave := range v.Waves {
		if err := c.line("wave %d: %s", i+1, strings.Join(wave, ", ")); err != nil {
			return err
		}
	}
	if !v.Applied {
		return c.line("%s: ok", v.File)
	}
	if len(v.Unknown) > 0 {
		fmt.Fprintf(c.err, "not protected, and without a place therefore: %s\n", strings.Join(v.Unknown, ", "))
	}
	return c.line("%d VMs have a place, %d lost theirs", len(v.Placed), len(v.Cleared))
}
