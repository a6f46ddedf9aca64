package cli

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"understudy/internal/model"
	"understudy/internal/policy"
	"understudy/internal/ui"
)

// policyFileView is the documented JSON of `understudy policy check`.
type policyFileView struct {
	MessageType string     `json:"message_type"` // "policy"
	File        string     `json:"file"`
	Policy      policyView `json:"policy"`
	Warnings    []string   `json:"warnings"` // what it asks for that may be impossible
}

func (e *env) policyCommand() *cli.Command {
	check := &cli.Command{
		Name: "check", Usage: "say whether a policy file is understood and can be kept", ArgsUsage: "FILE",
		Description: `Asks nobody. Every problem is printed as FILE:LINE:COLUMN: reason. docs/POLICY_FILE.md has the format.

EXAMPLE
   understudy policy check db.yaml

` + exitStatus(exitDone, exitUsage),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "`FORMAT` of the result: table, json or jsonl"},
		},
		Action: e.policyCheck,
	}
	schema := &cli.Command{
		Name: "schema", Usage: "print the JSON schema of a policy file, for editors",
		Description: "EXAMPLE\n   understudy policy schema > policy.schema.json\n\n" + exitStatus(exitDone, exitUsage),
		Action: func(*cli.Context) error {
			_, err := e.out.Write(policy.Schema())
			return err
		},
	}
	for _, c := range []*cli.Command{check, schema} {
		c.OnUsageError, c.HideHelpCommand, c.Action = usage, true, strict(c.Action)
	}
	return &cli.Command{
		Name: "policy", Usage: "check a policy file", ArgsUsage: "COMMAND",
		Description: "EXAMPLE\n   understudy policy check db.yaml\n\n" + exitStatus(exitDone, exitUsage),
		Subcommands: []*cli.Command{check, schema},
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return model.Fail(model.InvalidArgument, nil, "there is no command policy %s", c.Args().First()).WithTry("understudy policy check FILE")
			}
			return model.Fail(model.InvalidArgument, nil, "policy needs a command: check or schema").WithTry("understudy policy check FILE")
		},
	}
}

func (e *env) policyCheck(c *cli.Context) error {
	output, err := ui.ParseOutput(c.String("output"))
	if err != nil {
		return model.Fail(model.InvalidArgument, nil, "%s", err.Error()).WithTry("--output json")
	}
	if c.NArg() != 1 {
		return model.Fail(model.InvalidArgument, nil, "policy check takes one file").WithTry("understudy policy check FILE")
	}
	file := c.Args().First()
	p, err := policy.Load(file, e.now())
	if err != nil {
		return err
	}
	if output != ui.Table {
		return ui.Print(e.out, output, policyFileView{"policy", file, policyOf(p), append([]string{}, policy.Warnings(p)...)})
	}
	e.warnOf(p)
	_, err = fmt.Fprintf(e.out, "%s: ok: %s\n", file, said(p))
	return err
}

// warnOf tells what of a policy may be impossible.
func (e *env) warnOf(p model.Policy) {
	for _, w := range policy.Warnings(p) {
		fmt.Fprintf(e.err, "warning: %s\n", w)
	}
}

// said is a policy in words.
func said(p model.Policy) string {
	var b strings.Builder
	fmt.Fprintf(&b, "RPO %s, %s, failover %s, keep %d points", ui.Duration(p.RPO), p.Tier, p.Failover, p.KeepLast)
	if p.Hourly > 0 {
		fmt.Fprintf(&b, ", %d hourly", p.Hourly)
	}
	if p.Daily > 0 {
		fmt.Fprintf(&b, ", %d daily", p.Daily)
	}
	fmt.Fprintf(&b, ", compression %s%s", p.Compression, rate(p.MaxBandwidth))
	if p.Freeze {
		b.WriteString(", file systems frozen")
	}
	b.WriteString(limits(policyOf(p)))
	for _, w := range windowsOf(p) {
		fmt.Fprintf(&b, "\n  %s", w)
	}
	return b.String()
}

// limits are what a policy asks for beyond the usual.
func limits(p policyView) string {
	var b strings.Builder
	if p.RTO > 0 {
		fmt.Fprintf(&b, ", RTO %s", ui.Duration(seconds(p.RTO)))
	}
	if p.BootEvery > 0 {
		fmt.Fprintf(&b, ", a point booted each %s", ui.Duration(seconds(p.BootEvery)))
	}
	if p.MaxStall > 0 {
		fmt.Fprintf(&b, ", stall at most %g ms", p.MaxStall)
	}
	if p.CPUShare > 0 {
		fmt.Fprintf(&b, ", about %.0f %% of a core", 100*p.CPUShare)
	}
	if n := len(p.Probes); n > 0 {
		fmt.Fprintf(&b, ", %d probes", n)
	}
	return b.String()
}

func rate(bandwidth int64) string {
	if bandwidth == 0 {
		return ""
	}
	return fmt.Sprintf(", at most %s/s", ui.Bytes(bandwidth))
}

// windowsOf says each window of the calendar in words.
func windowsOf(p model.Policy) []string {
	if p.Calendar == nil {
		return nil
	}
	var list []string
	for _, w := range p.Calendar.Windows {
		in := w.In(p)
		list = append(list, fmt.Sprintf("%s (%s, %02d:%02d to %02d:%02d %s): RPO %s, %s%s", w.Name, daysOf(w.Days), w.From/60, w.From%60, w.To/60, w.To%60,
			p.Calendar.Zone.Name, ui.Duration(in.RPO), in.Tier, rate(in.MaxBandwidth)))
	}
	return list
}

func daysOf(days []int) string {
	const all = 7
	if len(days) == all {
		return "every day"
	}
	names := [all]string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}
	var list []string
	for _, d := range days {
		if d >= 0 && d < all {
			list = append(list, names[d])
		}
	}
	return strings.Join(list, " ")
}
