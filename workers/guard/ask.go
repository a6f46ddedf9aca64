package guard

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"understudy/internal/guard"
	"understudy/internal/model"
)

func one(c *cli.Context) (string, error) {
	if c.NArg() != 1 {
		return "", model.Fail(model.InvalidArgument, nil, "guard %s takes the UUID of one VM", c.Command.Name)
	}
	return c.Args().First(), nil
}

func armCommand() *cli.Command {
	return &cli.Command{
		Name:      "arm",
		Usage:     "let a VM run on this host for a time, by a person's word",
		ArgsUsage: "UUID",
		Description: `The agent does this at each renewal. A person needs it when the control plane is lost for good: with a generation above that of
` + "`understudy guard list`" + ` and mode sole, a frozen copy goes on for good. Only where you know that no other copy runs.

EXAMPLE
   understudy guard arm --generation 9 --mode sole 5c9f9f0e-43f0-4bf9-9f0e-7d1b8a3c2d11

EXIT STATUS
   0 armed, 11 the generation is over here or the mode goes back, 20 the guard does not answer, 64 usage`,
		Flags: []cli.Flag{
			&cli.Uint64Flag{Name: "generation", Required: true, Usage: "of the lease"},
			&cli.StringFlag{Name: "mode", Value: string(model.ModeSole), Usage: "probation, sole or leased"},
			&cli.StringFlag{Name: "action", Value: string(model.IsolationFreeze), Usage: "freeze or kill, at the deadline"},
			&cli.DurationFlag{Name: "for", Value: time.Minute, Usage: "`TIME` until the deadline; in mode sole only the start gate closes then"},
		},
		Action: func(c *cli.Context) error {
			uuid, err := one(c)
			if err != nil {
				return err
			}
			boot, at, err := here()
			if err != nil {
				return err
			}
			return ask(c, func(ctx context.Context, g *guard.Client) error {
				return g.Arm(ctx, model.GuardArm{
					UUID: uuid, Generation: model.Generation(c.Uint64("generation")), BootID: boot, Deadline: at.Add(c.Duration("for")),
					Mode: model.LeaseMode(c.String("mode")), Action: model.Isolation(c.String("action")),
				})
			})
		},
	}
}

// here is this boot and its clock.
func here() (string, model.BootTime, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", 0, model.Fail(model.Internal, err, "this kernel tells no boot id")
	}
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return "", 0, model.Fail(model.Internal, err, "this kernel has no CLOCK_BOOTTIME")
	}
	return strings.TrimSpace(string(b)), model.BootTime(ts.Nano()), nil
}

func stopCommand() *cli.Command {
	return &cli.Command{
		Name:      "stop",
		Usage:     "kill the copy of a VM on this host and prove it gone",
		ArgsUsage: "UUID",
		Description: `Every copy of a generation lower than --below is killed, and the VM may not start here until that generation or a higher one
is armed. Its disks are left as they are.

EXIT STATUS
   0 proved gone, 12 not proved, 20 the guard does not answer, 64 usage`,
		Flags: []cli.Flag{&cli.Uint64Flag{Name: "below", Usage: "`GENERATION` that follows (default: the one after that of the copy)"}},
		Action: func(c *cli.Context) error {
			uuid, err := one(c)
			if err != nil {
				return err
			}
			return ask(c, func(ctx context.Context, g *guard.Client) error {
				below := model.Generation(c.Uint64("below"))
				if below == 0 {
					list, err := g.List(ctx)
					if err != nil {
						return err
					}
					below = 1
					for _, e := range list {
						if strings.EqualFold(e.UUID, uuid) {
							below = max(e.Generation+1, e.Floor)
						}
					}
				}
				return g.Stop(ctx, uuid, below)
			})
		},
	}
}

func forgetCommand() *cli.Command {
	return &cli.Command{
		Name:      "forget",
		Usage:     "end the guarding of a VM on this host",
		ArgsUsage: "UUID",
		Description: `It may then be started by anybody, and nothing stops it. ` + "`understudy unprotect`" + ` does this on both hosts; a person needs it where the
control plane is gone. Refused while a frozen copy is here.

EXIT STATUS
   0 forgotten, 12 refused, 20 the guard does not answer, 64 usage`,
		Action: func(c *cli.Context) error {
			uuid, err := one(c)
			if err != nil {
				return err
			}
			return ask(c, func(ctx context.Context, g *guard.Client) error { return g.Forget(ctx, uuid) })
		},
	}
}

func listCommand() *cli.Command {
	return &cli.Command{
		Name:  "list",
		Usage: "what this host's guard guards",
		Description: `EXIT STATUS
   0 shown, 20 the guard does not answer, 64 usage`,
		Flags: []cli.Flag{&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "table or json"}},
		Action: func(c *cli.Context) error {
			return ask(c, func(ctx context.Context, g *guard.Client) error {
				state, err := g.State(ctx)
				if err != nil {
					return err
				}
				list, err := g.List(ctx)
				if err != nil {
					return err
				}
				if c.String("output") == "json" {
					enc := json.NewEncoder(c.App.Writer)
					enc.SetIndent("", "  ")
					return enc.Encode(struct {
						model.GuardState
						VMs []guard.Entry `json:"vms"`
					}{state, list})
				}
				return table(c, state, list)
			})
		},
	}
}

func table(c *cli.Context, state model.GuardState, list []guard.Entry) error {
	fmt.Fprintf(c.App.ErrWriter, "level %d", state.Level)
	if state.Detail != "" {
		fmt.Fprintf(c.App.ErrWriter, " (%s)", state.Detail)
	}
	if state.DStop > 0 {
		fmt.Fprintf(c.App.ErrWriter, ", slowest stop %s", state.DStop.Round(time.Millisecond))
	}
	fmt.Fprintln(c.App.ErrWriter)
	w := tabwriter.NewWriter(c.App.Writer, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "UUID\tGENERATION\tMODE\tDEADLINE\tMAY START\tCOPIES")
	for _, e := range list {
		deadline, may := "none", "no: "+e.Why
		if e.Generation > 0 {
			deadline = time.Duration(e.Left).Round(100 * time.Millisecond).String()
		}
		if e.MayStart {
			may = "yes"
		}
		copies := "none"
		for i, p := range e.Copies {
			if i == 0 {
				copies = ""
			} else {
				copies += ", "
			}
			copies += fmt.Sprintf("%d %s", p.PID, p.State)
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", e.UUID, e.Generation, e.Mode, deadline, may, copies)
	}
	return w.Flush()
}
