package cli

import (
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"understudy/internal/contract"
	"understudy/internal/model"
	"understudy/internal/ui"
)

func (e *env) testFailoverCommand() *cli.Command {
	return e.command(verb{
		name: "test-failover", usage: "boot a recovery point on the standby in isolation, and take it away again", args: "VM",
		about: `The copy has another name and UUID, no network and disks of its own; the VM, its points and its protection go on untouched.
It passes when the probes of the policy do (TCP ones are left out: nothing reaches it), else when its guest agent answers or
it stays up. The time until then is the RTO that status shows. It ends with exit 1 when the copy did not come up.`,
		example: "understudy test-failover db1\nunderstudy test-failover --point 41 --output json db1",
		exits:   []int{exitNotFound, exitConflict},
		flags: []cli.Flag{
			&cli.Uint64Flag{Name: "point", Aliases: []string{"seq"}, Usage: "`SEQ` of the point to boot (default: the newest verified one)"},
			&cli.BoolFlag{Name: "wait", Value: true, Usage: "wait for the result"},
		},
		do: testFailover,
	})
}

// testView is the documented JSON of a test failover.
type testView struct {
	MessageType string       `json:"message_type,omitempty"` // "test" when it stands alone
	VM          string       `json:"vm,omitempty"`
	WorkflowID  string       `json:"workflow_id"`
	Number      int          `json:"number"`
	Host        model.HostID `json:"host"`
	Seq         uint64       `json:"seq"`
	By          string       `json:"by"`
	Scheduled   bool         `json:"scheduled"`
	StartedAt   time.Time    `json:"started_at"`
	EndedAt     *time.Time   `json:"ended_at"`
	Passed      bool         `json:"passed"`
	RTO         float64      `json:"rto_s"`
	Answered    string       `json:"answered"`
	Detail      string       `json:"detail,omitempty"`
	Error       string       `json:"error,omitempty"`
	CleanedUp   bool         `json:"cleaned_up"`
}

func testOf(r contract.TestResult) testView {
	return testView{
		WorkflowID: r.WorkflowID, Number: r.Number, Host: r.Host, Seq: uint64(r.Point.Seq), By: r.By, Scheduled: r.Scheduled, StartedAt: r.StartedAt,
		EndedAt: timeOrNil(r.EndedAt), Passed: r.Passed, RTO: r.RTO.Seconds(), Answered: r.Answered, Detail: r.Detail, Error: r.Error, CleanedUp: r.CleanedUp,
	}
}

func testFailover(c *call) error {
	if c.IsSet("point") && c.Uint64("point") == 0 {
		return model.Fail(model.InvalidArgument, nil, "points are numbered from 1").WithTry("understudy points " + c.Args().First())
	}
	d, closing, err := c.find()
	defer closing()
	if err != nil {
		return err
	}
	vm, ctx := d.Spec.VM, c.Context.Context
	asked, err := c.s.RequestTestFailover(ctx, vm, contract.TestRequestIn{By: c.who, Seq: model.Seq(c.Uint64("point"))})
	if err != nil {
		return leaving(ctx, err, "the test failover may have been asked for. Try: understudy status %s", vm.Name)
	}
	if !c.Bool("wait") {
		if c.output == ui.Table {
			return c.line("test failover %d of %s runs. Its result: understudy status %s", asked.Number, vm.Name, vm.Name)
		}
		return ui.Print(c.out, c.output, testView{MessageType: "test", VM: vm.Name, WorkflowID: asked.WorkflowID, Number: asked.Number, Host: d.State.Standby, StartedAt: c.now()})
	}
	out, err := tested(c, vm, asked)
	if err != nil {
		return err
	}
	return testConcluded(c, vm, out)
}

// tested waits for the result.
func tested(c *call, vm model.VMRef, asked contract.TestRequestOut) (contract.TestResult, error) {
	ctx, bar, began, heard := c.Context.Context, c.progress(), c.now(), c.now()
	defer bar.Done()
	for {
		d, err := c.s.Describe(ctx, vm.UUID)
		switch {
		case err == nil:
			heard = c.now()
		case ctx.Err() != nil:
			return contract.TestResult{}, interrupted{"the test failover goes on, and cleans up after itself"}
		case model.KindOf(err) != model.Unreachable || c.now().Sub(heard) > patience:
			return contract.TestResult{}, err
		}
		for _, r := range d.State.Tests {
			if r.Number == asked.Number {
				return r, nil
			}
		}
		bar.Show("%s", testingLine(d, asked.Number, max(0, c.now().Sub(began))))
		select {
		case <-ctx.Done():
			return contract.TestResult{}, interrupted{"the test failover goes on, and cleans up after itself"}
		case <-time.After(c.tick):
		}
	}
}

// testingLine measures a test against the one before: nothing else says how long this VM boots.
func testingLine(d contract.DescribeOut, number int, since time.Duration) string {
	text := fmt.Sprintf("%s: test failover %d, %s", d.Spec.VM.Name, number, ui.Duration(since))
	if n := len(d.State.Tests); n > 0 && d.State.Tests[n-1].Passed {
		usual := d.State.Tests[n-1].RTO
		text += fmt.Sprintf(" [%s] the last took %s", ui.Bar(since.Seconds()/max(usual.Seconds(), 0.1), 20), ui.Duration(usual))
		if left := usual - since; left > 0 {
			text += fmt.Sprintf(", %s left", ui.Duration(left))
		}
	}
	return text
}

func testConcluded(c *call, vm model.VMRef, r contract.TestResult) error {
	if c.output != ui.Table {
		v := testOf(r)
		v.MessageType, v.VM = "test", vm.Name
		if err := ui.Print(c.out, c.output, v); err != nil {
			return err
		}
	}
	if !r.Passed {
		kind := model.Internal
		if r.ErrorType != "" {
			kind = model.Kind(r.ErrorType)
		}
		return model.Fail(kind, nil, "point %d did not come up: %s", r.Point.Seq, r.Error).WithVM(vm.Name).WithHost(r.Host).WithTry("understudy points " + vm.Name)
	}
	if c.output != ui.Table {
		return nil
	}
	if err := c.line("point %d of %s boots on %s: %s after %s", r.Point.Seq, vm.Name, r.Host, r.Answered, ui.Duration(r.RTO)); err != nil {
		return err
	}
	if !r.CleanedUp {
		return model.Fail(model.Internal, nil, "the copy could not be taken away").WithVM(vm.Name).WithHost(r.Host).
			WithTry("restart the agent of " + string(r.Host) + ": it takes it away when it starts")
	}
	return nil
}
