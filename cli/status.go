package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"understudy/internal/contract"
	"understudy/internal/model"
	"understudy/internal/ui"
)

func (e *env) statusCommand() *cli.Command {
	return e.command(verb{
		name: "status", usage: "show protections: phase, exposure against the RPO, last point", args: "[VM…]",
		about: `EXPOSURE is the age of the oldest guest write that is in no verified point, at the moment of asking: what would be
lost if the primary died now. RPO is met, at_risk (above 75 % of the target), violated, or unknown while the primary
is silent. A VM counts as outside its promise (exit 3) when its RPO is violated or unknown, or its phase is Failed or
FailingOver.`,
		example: "understudy status\nunderstudy status --watch db1\nunderstudy status --output json db1",
		exits:   []int{exitOutside, exitNotFound, exitConflict},
		flags: []cli.Flag{
			&cli.BoolFlag{Name: "watch", Aliases: []string{"w"}, Usage: "a live screen until q or Ctrl-C; without a terminal the table again and again"},
			&cli.DurationFlag{Name: "interval", Value: 2 * time.Second, Usage: "`TIME` between two looks of --watch"},
		},
		do: status,
	})
}

func status(c *call) error {
	interval := c.Duration("interval")
	if interval < 100*time.Millisecond {
		return model.Fail(model.InvalidArgument, nil, "--interval must be at least 100ms, not %s", interval).WithTry("--interval 2s")
	}
	closing, err := c.reach()
	if err != nil {
		return err
	}
	defer closing()
	if !c.Bool("watch") {
		return look(c)
	}
	if c.outTerminal && c.output == ui.Table {
		return watchLive(c, interval)
	}
	ctx := c.Context.Context
	heard, first := c.now(), true
	for {
		if !first && c.output == ui.Table {
			fmt.Fprintln(c.out)
		}
		first = false
		err := look(c)
		switch {
		case err == nil || exitCode(err) == exitOutside:
			heard = c.now()
		case ctx.Err() != nil:
			return interrupted{"stopped watching"}
		case model.KindOf(err) != model.Unreachable || c.now().Sub(heard) > patience:
			return err
		default:
			fmt.Fprintln(c.err, "the control plane does not answer, asking again")
		}
		select {
		case <-ctx.Done():
			return interrupted{"stopped watching"}
		case <-time.After(interval):
		}
	}
}

// look prints once.
func look(c *call) error {
	all, askErr := asked(c.Context.Context, c)
	if askErr != nil && len(all) == 0 {
		return askErr
	}
	views := viewsOf(all, c.now())
	if err := printStatus(c, views); err != nil {
		return err
	}
	if askErr != nil {
		return askErr // some could not be asked: the list is not complete
	}
	for _, v := range views {
		if v.outside() {
			return errOutside
		}
	}
	return nil
}

func asked(ctx context.Context, c *call) ([]contract.DescribeOut, error) {
	if c.NArg() == 0 {
		return c.s.Overview(ctx)
	}
	var all []contract.DescribeOut
	for _, vm := range c.Args().Slice() {
		d, err := c.s.Find(ctx, vm)
		if err != nil {
			return all, err
		}
		all = append(all, d)
	}
	return all, nil
}

func viewsOf(all []contract.DescribeOut, now time.Time) []protectionView {
	views := []protectionView{}
	for _, d := range all {
		views = append(views, viewOf(d, now))
	}
	return views
}

func printStatus(c *call, views []protectionView) error {
	switch c.output {
	case ui.JSON:
		return ui.Print(c.out, ui.JSON, statusView{"status", views})
	case ui.JSONL:
		for _, v := range views {
			v.MessageType = "protection"
			if err := ui.Print(c.out, ui.JSONL, v); err != nil {
				return err
			}
		}
		return nil
	case ui.Table:
	}
	if len(views) == 1 && c.NArg() == 1 {
		return story(c, views[0])
	}
	return summaryTable(c, views)
}
