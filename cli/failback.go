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

func (e *env) failbackCommand() *cli.Command {
	return e.command(verb{
		name: "failback", usage: "bring a VM back to the host where it was protected first", args: "VM",
		about: `A switchover to the VM's first host, once that host is its standby again. It became one by itself when it was heard: its old
disks stay aside as a rescue copy, and only what differs from them was sent. When they hold writes that were in no point at
the failover, the command says how many bytes and asks.
It waits until the host is ready (--timeout).`,
		example: "understudy failback db1\nunderstudy failback --yes --timeout 1h db1",
		exits:   []int{exitNotFound, exitConflict, exitUnsafe},
		flags: moveFlags(
			&cli.DurationFlag{Name: "timeout", Value: 10 * time.Minute, Usage: "`TIME` to wait until the first host is a standby with a verified point"},
		),
		do: failback,
	})
}

func failback(c *call) error {
	if err := validPause(c); err != nil {
		return err
	}
	d, closing, err := c.find()
	defer closing()
	if err != nil {
		return err
	}
	if d.State.Primary == d.Spec.Primary {
		return model.Fail(model.Conflict, nil, "it runs on %s already, where it was protected first", d.Spec.Primary).WithVM(d.Spec.VM.Name).
			WithTry("understudy switchover " + d.Spec.VM.Name + ", to move it away")
	}
	if d, err = readyToReturn(c.Context.Context, c, d); err != nil {
		return err
	}
	if err := c.sure(failbackQuestion(d)); err != nil {
		return err
	}
	return move(c, d, contract.SwitchoverRequestIn{By: c.who, Reason: c.String("reason"), MaxPause: c.Duration(maxPauseFlag), Failback: true, KeepRescue: true})
}

// readyToReturn waits until the first host holds a verified point.
func readyToReturn(ctx context.Context, c *call, d contract.DescribeOut) (contract.DescribeOut, error) {
	bar := c.progress()
	defer bar.Done()
	vm, end := d.Spec.VM, c.now().Add(c.Duration("timeout"))
	for {
		st := d.State
		if st.StandbyReady && !st.Committed.IsZero() && (st.Failover == nil || st.Failover.Outcome != "") {
			return d, nil
		}
		if !c.now().Before(end) {
			return d, model.Fail(model.Conflict, nil, "%s is not ready to take it back: %s", d.Spec.Primary, notReady(st)).WithVM(vm.Name).
				WithTry("understudy status " + vm.Name)
		}
		bar.Show("%s: waiting for %s, %s", vm.Name, d.Spec.Primary, notReady(st))
		select {
		case <-ctx.Done():
			return d, interrupted{"nothing was done"}
		case <-time.After(c.tick):
		}
		next, err := c.s.Describe(ctx, vm.UUID)
		switch {
		case err == nil:
			d = next
		case model.KindOf(err) != model.Unreachable:
			return d, err
		}
	}
}

func notReady(st contract.ProtectState) string {
	switch {
	case st.Failover != nil && st.Failover.Outcome == "":
		return "a failover is running"
	case st.HostSilent[string(st.Standby)]:
		return "it is not heard"
	case !st.StandbyReady:
		return "it is being made the standby"
	}
	return "it has no verified point yet"
}

func failbackQuestion(d contract.DescribeOut) string {
	text := fmt.Sprintf("Restart %s on %s? Nothing that was written on %s is lost, but the VM boots anew.", d.Spec.VM.Name, d.State.Standby, d.State.Primary)
	if r := d.State.Rescue; r != nil && r.Unreplicated > 0 {
		text += fmt.Sprintf(" %s holds %s that were in no point when the VM left it, and that the VM will not have; they stay in %v.", r.Host, ui.Bytes(r.Unreplicated), r.Disks)
	}
	return text
}
