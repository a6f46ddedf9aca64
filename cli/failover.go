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

func (e *env) failoverCommand() *cli.Command {
	return e.command(verb{
		name: "failover", usage: "start a VM on its standby from a recovery point (unplanned)", args: "VM",
		about: `Nothing is started before the old copy is proved off: its agent stops it, or power fencing cuts its host off, or
you say so with --confirm-primary-down. That flag is your word that the host is POWERED OFF; that the VM is not
running there is not enough. A wrong word can make two copies of the VM write.
Where a lease binds the host it is outlasted all the same, unless --force says that the word is enough. Given while a failover
runs, the word is one more rung of its ladder. --dry-run tells what would be done and touches nothing. With --hold the VM runs on
probation until you commit or roll back, ten minutes at most; then it commits. --abandon takes a failover back that has proved
nothing yet, and ends the tries that follow one which came to nothing; --retry makes the next one at once.
The command follows the failover to its end and prints what was done; Ctrl-C stops the watching, not the failover.`,
		example: "understudy failover --dry-run db1\nunderstudy failover db1\nunderstudy failover --yes --point 41 --hold db1\nunderstudy failover --yes --confirm-primary-down db1",
		exits:   []int{exitNotFound, exitConflict, exitUnsafe},
		flags: []cli.Flag{
			yesFlag(),
			&cli.BoolFlag{Name: "confirm-primary-down", Usage: "your word that the primary's host is powered off"},
			&cli.Uint64Flag{Name: "point", Usage: "`SEQ` of the point to start from (default: the newest verified one)"},
			&cli.StringFlag{Name: "reason", Value: "asked for by a person", Usage: "`TEXT` for the history"},
			&cli.BoolFlag{Name: "no-wait", Usage: "return as soon as the failover runs"},
			&cli.BoolFlag{Name: "force", Usage: "with --confirm-primary-down: do not wait for the lease of that host"},
			&cli.BoolFlag{Name: "hold", Usage: "keep it open for understudy commit or rollback"},
			&cli.BoolFlag{Name: "dry-run", Usage: "say what would be done, from which point, on what proof; do nothing"},
			&cli.BoolFlag{Name: "retry", Usage: "try again now after one that came to nothing"},
			&cli.BoolFlag{Name: "abandon", Usage: "take it back, and do not try again before understudy resume"},
		},
		do: failover,
	})
}

func failover(c *call) error {
	if c.IsSet("point") && c.Uint64("point") == 0 {
		return model.Fail(model.InvalidArgument, nil, "points are numbered from 1").WithTry("understudy points " + c.Args().First())
	}
	if err := failoverFlags(c); err != nil {
		return err
	}
	d, closing, err := c.find()
	defer closing()
	if err != nil {
		return err
	}
	vm := d.Spec.VM
	switch f := d.State.Failover; {
	case c.Bool("dry-run"):
		return rehearse(c, d)
	case c.Bool("abandon"):
		return abandon(c, d)
	case c.Bool("retry") && (f == nil || f.Outcome == "" || f.Outcome == contract.OutcomeDone):
		return model.Fail(model.Conflict, nil, "no failover of %s came to nothing", vm.Name).WithVM(vm.Name).WithTry("understudy status " + vm.Name)
	}
	if err := c.sure(failoverQuestion(d, c.Bool("confirm-primary-down"), c.now())); err != nil {
		return err
	}
	ctx := c.Context.Context
	asked, err := c.s.RequestFailover(ctx, vm, contract.FailoverRequestIn{
		By: c.who, Reason: c.String("reason"), ConfirmPrimaryDown: c.Bool("confirm-primary-down"), Seq: model.Seq(c.Uint64("point")),
		Force: c.Bool("force"), Hold: c.Bool("hold"),
	})
	if err != nil {
		return leaving(ctx, err, "the failover may have been asked for. Try: understudy status %s", vm.Name)
	}
	if c.Bool("no-wait") {
		if c.output == ui.Table {
			return c.line("the failover of %s runs: %s. Follow it: understudy status --watch %s", vm.Name, asked.WorkflowID, vm.Name)
		}
		return ui.Print(c.out, c.output, failoverView{
			MessageType: "failover", VM: vm.Name, WorkflowID: asked.WorkflowID, Generation: uint64(asked.Generation),
			From: d.State.Primary, To: d.State.Standby, Reason: c.String("reason"), Steps: []stepView{},
		})
	}
	brief, err := followed(ctx, c, vm, asked.WorkflowID, "failover")
	if err != nil {
		return err
	}
	return concluded(c, vm, brief)
}

// failoverFlags refuses flags that contradict each other.
func failoverFlags(c *call) error {
	chosen := 0
	for _, f := range []string{"dry-run", "retry", "abandon"} {
		if c.Bool(f) {
			chosen++
		}
	}
	switch {
	case chosen > 1 || c.Bool("abandon") && (c.Bool("hold") || c.Bool("confirm-primary-down")):
		return model.Fail(model.InvalidArgument, nil, "choose one of --dry-run, --retry and --abandon").WithTry("understudy failover --help")
	case c.Bool("force") && !c.Bool("confirm-primary-down"):
		return model.Fail(model.InvalidArgument, nil, "--force goes with --confirm-primary-down: it makes your word enough").
			WithTry("understudy failover --confirm-primary-down --force " + c.Args().First())
	}
	return nil
}

func failoverQuestion(d contract.DescribeOut, word bool, now time.Time) string {
	v := viewOf(d, now)
	text := fmt.Sprintf("Start %s on %s?", v.VM, v.Standby)
	if v.LastPoint != nil {
		text += fmt.Sprintf(" The newest verified point is %s old; what was written since may be lost.", ui.Duration(max(0, now.Sub(v.LastPoint.TakenAt))))
	}
	if word {
		text += fmt.Sprintf(" You confirm that the host %s is POWERED OFF.", v.Primary)
	}
	return text
}

// followed prints the timeline while it grows and returns the failover when it has ended.
func followed(ctx context.Context, c *call, vm model.VMRef, id, what string) (contract.FailoverBrief, error) {
	note := fmt.Sprintf("the %s of %s goes on. Try: understudy status --watch %s", what, vm.Name, vm.Name)
	bar := c.progress()
	defer bar.Done()
	printed, heard := 0, c.now()
	var steps []contract.FailoverStep
	start := time.Time{}
	for {
		d, err := c.s.Describe(ctx, vm.UUID)
		switch {
		case err == nil:
			heard = c.now()
		case ctx.Err() != nil:
			return contract.FailoverBrief{}, interrupted{note}
		case model.KindOf(err) != model.Unreachable || c.now().Sub(heard) > patience:
			return contract.FailoverBrief{}, err
		}
		if f := d.State.Failover; err == nil && f != nil {
			start = f.StartedAt
			if f.WorkflowID != id {
				// Another one followed it meanwhile: ours is over, and what it left is in the history.
				return contract.FailoverBrief{}, model.Fail(model.Internal, nil, "the failover %s has ended and %s followed it", id, f.WorkflowID).
					WithVM(vm.Name).WithTry("understudy status " + vm.Name)
			}
			if f.Outcome != "" {
				if f.Result != nil {
					printSteps(c, bar, f.Result.Steps, printed, start)
				}
				return *f, nil
			}
		}
		if out, err := c.s.FailoverTimeline(ctx, vm, id); err == nil && !start.IsZero() {
			printed, steps = printSteps(c, bar, out.Steps, printed, start), out.Steps
			if out.HeldUntil != nil && d.State.Failover != nil {
				held := *d.State.Failover
				held.Result = &out
				return held, nil
			}
		}
		if !start.IsZero() {
			bar.Show("%s", failingLine(vm.Name, steps, d.State.Policy.RTO, c.now().Sub(start)))
		}
		select {
		case <-ctx.Done():
			return contract.FailoverBrief{}, interrupted{note}
		case <-time.After(c.tick):
		}
	}
}

// failingLine says where a failover is, and what is left of the time that the policy gives it.
func failingLine(vm string, steps []contract.FailoverStep, rto, since time.Duration) string {
	text := fmt.Sprintf("%s: moving, %s", vm, ui.Duration(max(0, since)))
	if n := len(steps); n > 0 {
		text += fmt.Sprintf(", %d done, the last was %s", n, steps[n-1].Name)
	}
	switch {
	case rto <= 0:
	case since <= rto:
		text += fmt.Sprintf(", %s of the RTO left", ui.Duration(rto-since))
	default:
		text += fmt.Sprintf(", %s beyond the RTO", ui.Duration(since-rto))
	}
	return text
}

func printSteps(c *call, bar *ui.Progress, steps []contract.FailoverStep, from int, start time.Time) int {
	for _, s := range steps[min(from, len(steps)):] {
		bar.Say("%s", stepLine(stepView{Name: s.Name, At: s.At, Took: s.Took.Seconds(), Detail: s.Detail, Error: s.Error}, start))
	}
	return max(from, len(steps))
}

// concluded prints the end; anything but done is an error with the kind that the failover reported.
func concluded(c *call, vm model.VMRef, f contract.FailoverBrief) error {
	v := failoverOf(f)
	v.MessageType, v.VM = "failover", vm.Name
	if c.output != ui.Table {
		if err := ui.Print(c.out, c.output, v); err != nil {
			return err
		}
	}
	if r := f.Result; f.Outcome == "" && r != nil && r.HeldUntil != nil {
		if c.output != ui.Table {
			return nil
		}
		return c.line("%s: %s", vm.Name, held(vm.Name, f.To, max(0, r.HeldUntil.Sub(c.now()))))
	}
	if f.Outcome == contract.OutcomeDone {
		if c.output != ui.Table {
			return nil
		}
		took := c.now().Sub(f.StartedAt)
		if f.EndedAt != nil {
			took = f.EndedAt.Sub(f.StartedAt)
		}
		if err := c.line("%s runs on %s, generation %d, after %s; the old copy is off: %s", vm.Name, f.To, f.Generation, ui.Duration(took), evidenceLine(v.Evidence)); err != nil {
			return err
		}
		if f.To != f.From {
			fmt.Fprintf(c.err, "%s becomes its standby as soon as it is heard. Watch it: understudy status --watch %s\n", f.From, vm.Name)
		}
		return nil
	}
	fail := model.Fail(model.Internal, nil, "the failover of %s was not done (%s)", vm.Name, f.Outcome).WithVM(vm.Name).WithHost(f.From).
		WithTry("understudy status " + vm.Name)
	if f.Error != "" {
		fail.What += ": " + f.Error
	}
	if r := f.Result; r != nil {
		if r.ErrorType != "" {
			fail.Kind = model.Kind(r.ErrorType)
		}
		if r.Try != "" {
			fail.Try = r.Try
		}
	}
	return fail
}
