package cli

import (
	"fmt"
	"sort"
	"strings"

	"github.com/urfave/cli/v2"

	"understudy/internal/contract"
	"understudy/internal/model"
	"understudy/internal/ui"
)

// pointsView is the documented JSON of `understudy points`, oldest first.
type pointsView struct {
	MessageType string      `json:"message_type"` // "points"
	VM          string      `json:"vm"`
	UUID        string      `json:"uuid"`
	Points      []pointView `json:"points"`
}

type pointView struct {
	MessageType string       `json:"message_type,omitempty"` // "point" when it stands alone
	VM          string       `json:"vm,omitempty"`
	Host        model.HostID `json:"host"` // whose store has it
	contract.PointView
}

func (e *env) pointsCommand() *cli.Command {
	return e.command(verb{
		name: "points", usage: "list the recovery points of a VM", args: "VM",
		about: `Every point listed was verified: re-read on the standby and compared with what the primary sent. MODE is how its
disks were found: delta (by the dirty bitmap), resync (by comparing digests) or full; the reason of anything but
delta is in --output json.`,
		example: "understudy points db1\nunderstudy points --output json db1",
		exits:   []int{exitNotFound, exitConflict},
		do:      points,
	})
}

func points(c *call) error {
	d, closing, err := c.find()
	defer closing()
	if err != nil {
		return err
	}
	list, err := storedPoints(c, d)
	if err != nil {
		return err
	}
	vm := d.Spec.VM
	switch c.output {
	case ui.JSON:
		return ui.Print(c.out, ui.JSON, pointsView{"points", vm.Name, vm.UUID, list})
	case ui.JSONL:
		for _, p := range list {
			p.MessageType, p.VM = "point", vm.Name
			if err := ui.Print(c.out, ui.JSONL, p); err != nil {
				return err
			}
		}
		return nil
	case ui.Table:
	}
	if len(list) == 0 {
		fmt.Fprintf(c.err, "there is no verified point of %s yet. Try: understudy status %s\n", vm.Name, vm.Name)
		return nil
	}
	return pointsTable(c, list)
}

// storedPoints asks the standby. After a failover the chain the VM was started from is on what is now the primary, and the
// old host may still be away: then what can be listed is listed.
func storedPoints(c *call, d contract.DescribeOut) ([]pointView, error) {
	hosts := []model.HostID{d.State.Standby}
	if d.State.Failover != nil {
		hosts = append(hosts, d.State.Primary)
	}
	list := []pointView{}
	var failed error
	answers := 0
	for _, h := range hosts {
		got, err := c.s.Points(c.Context.Context, h, d.Spec.VM)
		if err != nil && model.KindOf(err) != model.NotFound {
			failed = err
			continue
		}
		answers++
		for _, p := range got {
			if p.Disks == nil {
				p.Disks = []model.PointDisk{}
			}
			list = append(list, pointView{Host: h, PointView: p})
		}
	}
	if answers == 0 {
		return nil, failed
	}
	if failed != nil {
		fmt.Fprintf(c.err, "the list is not complete: %v\n", failed)
	}
	sort.SliceStable(list, func(i, j int) bool { return list[i].Seq < list[j].Seq })
	return list, nil
}

func pointsTable(c *call, list []pointView) error {
	now := c.now()
	rows := make([][]string, 0, len(list))
	for _, p := range list {
		var modes []string
		var dirty, sent int64
		for _, d := range p.Disks {
			modes = append(modes, d.Target+" "+string(d.Mode))
			dirty, sent = dirty+d.DirtyBytes, sent+d.SentBytes
		}
		rows = append(rows, []string{
			fmt.Sprint(p.Seq), fmt.Sprint(p.Generation), p.TakenAt.Local().Format("2006-01-02 15:04:05"), ui.Ago(p.TakenAt, now),
			string(p.Consistency), strings.Join(modes, ", "), ui.Bytes(dirty), ui.Bytes(sent), ui.Bytes(p.BytesOnDisk), string(p.Host),
		})
	}
	return ui.Rows(c.out, []string{"SEQ", "GEN", "TAKEN", "AGE", "CONSISTENCY", "MODE", "DIRTY", "SENT", "ON DISK", "HOST"}, rows)
}
