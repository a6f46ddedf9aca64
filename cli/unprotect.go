package cli

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"understudy/internal/contract"
	"understudy/internal/model"
	"understudy/internal/ui"
)

// unprotectedView is the answer of unprotect.
type unprotectedView struct {
	MessageType string   `json:"message_type"` // "unprotected"
	VM          string   `json:"vm"`
	UUID        string   `json:"uuid"`
	Purged      bool     `json:"purged"`
	Leftovers   []string `json:"leftovers"`
}

func (e *env) unprotectCommand() *cli.Command {
	return e.command(verb{
		name: "unprotect", usage: "end the protection of a VM", args: "VM",
		about: `Stops replicating and removes what Understudy left in libvirt and on the hosts. The VM itself is not touched. The
points on the standby stay unless --purge says otherwise. What could not be removed because a host is silent is
listed on standard error.`,
		example: "understudy unprotect --yes --purge db1",
		exits:   []int{exitNotFound, exitConflict},
		flags:   []cli.Flag{yesFlag(), &cli.BoolFlag{Name: "purge", Usage: "remove the points on the standby too"}},
		do:      unprotect,
	})
}

// runsFromReplica is the replica's folder that the VM was started from; empty when its disks are elsewhere.
func runsFromReplica(disks []model.Disk, uuid string) string {
	for _, d := range disks {
		if dir, _, ok := strings.Cut(d.Path, "/"+uuid+"/active/"); ok {
			return dir + "/" + uuid
		}
	}
	return ""
}

func unprotect(c *call) error {
	d, closing, err := c.find()
	defer closing()
	if err != nil {
		return err
	}
	vm, purge := d.Spec.VM, c.Bool("purge")
	question := fmt.Sprintf("End the protection of %s? Its points on %s are kept (--purge deletes them).", vm.Name, d.State.Standby)
	if purge {
		question = fmt.Sprintf("End the protection of %s and delete its points on %s?", vm.Name, d.State.Standby)
	}
	if err := c.sure(question); err != nil {
		return err
	}
	ctx := c.Context.Context
	out, err := c.s.Unprotect(ctx, vm, contract.UnprotectIn{By: c.who, PurgeReplica: purge})
	if err != nil {
		return leaving(ctx, err, "the removal goes on. Try: understudy status %s", vm.Name)
	}
	for _, l := range out.Leftovers {
		fmt.Fprintln(c.err, "left behind:", l)
	}
	if dir := runsFromReplica(d.State.Disks, vm.UUID); dir != "" {
		fmt.Fprintf(c.err, "%s runs from %s on %s since its failover: that folder is its disks now, and stays\n", vm.Name, dir, d.State.Primary)
	}
	if c.output != ui.Table {
		left := out.Leftovers
		if left == nil {
			left = []string{}
		}
		return ui.Print(c.out, c.output, unprotectedView{"unprotected", vm.Name, vm.UUID, purge, left})
	}
	return c.line("%s is not protected any more", vm.Name)
}
