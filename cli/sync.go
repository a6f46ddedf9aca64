package cli

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"understudy/internal/contract"
	"understudy/internal/ui"
)

// syncView is the answer of sync.
type syncView struct {
	MessageType string `json:"message_type"` // "point"
	VM          string `json:"vm"`
	pointBrief
}

func (e *env) syncCommand() *cli.Command {
	return e.command(verb{
		name: "sync", usage: "make a recovery point now and wait until it is verified", args: "VM",
		about: `The point is captured after the call. With --resync nothing is trusted: every allocated block is compared with the
standby by its digest, and what differs is sent.`,
		example: "understudy sync db1\nunderstudy sync --resync db1",
		exits:   []int{exitNotFound, exitConflict, exitUnsafe},
		flags:   []cli.Flag{&cli.BoolFlag{Name: "resync", Usage: "compare all blocks instead of trusting dirty bitmaps"}},
		do:      syncNow,
	})
}

func syncNow(c *call) error {
	d, closing, err := c.find()
	defer closing()
	if err != nil {
		return err
	}
	ctx, vm := c.Context.Context, d.Spec.VM
	p, err := showing(c, vm, func() (contract.PointSummary, error) {
		return c.s.ReplicateNow(ctx, vm, contract.ReplicateNowIn{By: c.who, Resync: c.Bool("resync")})
	})
	if err != nil {
		return leaving(ctx, err, "the point of %s goes on. Try: understudy status %s", vm.Name, vm.Name)
	}
	brief := *briefOf(p)
	if c.output != ui.Table {
		return ui.Print(c.out, c.output, syncView{"point", vm.Name, brief})
	}
	return c.line("%s", fmt.Sprintf("point %d of %s is verified: %s, %s dirty, %s sent", brief.Seq, vm.Name, brief.Mode, ui.Bytes(brief.DirtyBytes), ui.Bytes(brief.SentBytes)))
}
