package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"understudy/internal/contract"
	"understudy/internal/model"
	"understudy/internal/ui"
)

// hostsView is the documented JSON of `understudy hosts`.
type hostsView struct {
	MessageType string     `json:"message_type"` // "hosts"
	Hosts       []hostView `json:"hosts"`
}

type hostView struct {
	MessageType string       `json:"message_type,omitempty"` // "host" when it stands alone
	Host        model.HostID `json:"host"`
	Silent      bool         `json:"silent"`
	Since       *time.Time   `json:"since"` // of silent or heard
	LastHeard   *time.Time   `json:"last_heard"`
	Protections int          `json:"protections"`
	Agent       string       `json:"agent_version"`
	Libvirt     string       `json:"libvirt"`
	QEMU        string       `json:"qemu"`
	LinkAddress string       `json:"link_address"`
	StoreFree   int64        `json:"store_free_bytes"`
	StoreTotal  int64        `json:"store_total_bytes"`
	CPUs        int          `json:"cpus"`
	Domains     int          `json:"domains"`
	LinkBudget  int64        `json:"link_budget"` // bytes/s; 0: not divided
	LinkUse     float64      `json:"link_use"`    // of the budget, over the last minute
	Late        []string     `json:"late"`        // VMs served there that are beyond their targets
}

func (e *env) hostsCommand() *cli.Command {
	return e.command(verb{
		name: "hosts", usage: "list the libvirt hosts that ever reported, and whether they are heard",
		about:   `A host appears when its agent has reported once (understudy agent).`,
		example: "understudy hosts\nunderstudy hosts --output json",
		do:      hosts,
	})
}

func hostOf(s contract.HostWatchState) hostView {
	f := s.Facts
	v := hostView{
		Host: f.Host, Silent: s.Silent, Since: timeOrNil(s.Since), LastHeard: timeOrNil(s.LastHeard), Protections: len(s.Protections),
		Agent: f.AgentVersion, Libvirt: f.Libvirt, QEMU: f.QEMU, LinkAddress: f.LinkAddress, StoreFree: f.StoreFree, StoreTotal: f.StoreTotal,
		CPUs: f.CPUs, Domains: f.Domains, Late: append([]string{}, f.Late...),
	}
	if f.Load != nil {
		v.LinkBudget, v.LinkUse = f.Load.LinkBudget, f.Load.LinkUse
	}
	return v
}

func hosts(c *call) error {
	closing, err := c.reach()
	if err != nil {
		return err
	}
	defer closing()
	states, askErr := c.s.Hosts(c.Context.Context)
	if askErr != nil && len(states) == 0 {
		return askErr
	}
	views := make([]hostView, 0, len(states))
	for _, s := range states {
		views = append(views, hostOf(s))
	}
	if err := printHosts(c, views); err != nil {
		return err
	}
	return askErr
}

func printHosts(c *call, views []hostView) error {
	switch c.output {
	case ui.JSON:
		return ui.Print(c.out, ui.JSON, hostsView{"hosts", views})
	case ui.JSONL:
		for _, v := range views {
			v.MessageType = "host"
			if err := ui.Print(c.out, ui.JSONL, v); err != nil {
				return err
			}
		}
		return nil
	case ui.Table:
	}
	if len(views) == 0 {
		fmt.Fprintln(c.err, "no host has reported yet. Try: understudy agent on each libvirt host")
		return nil
	}
	now := c.now()
	rows := make([][]string, 0, len(views))
	for _, v := range views {
		state := "heard"
		if v.Silent {
			state = "SILENT"
		}
		since := "-"
		if v.Since != nil {
			since = ui.Ago(*v.Since, now)
		}
		rows = append(rows, []string{
			string(v.Host), state, since, fmt.Sprint(v.Protections), fmt.Sprint(v.Domains), fmt.Sprintf("%s of %s", ui.Bytes(v.StoreFree), ui.Bytes(v.StoreTotal)),
			v.Libvirt, v.QEMU, v.Agent, v.LinkAddress, linkUse(v), orDash(strings.Join(v.Late, ", ")),
		})
	}
	return ui.Rows(c.out, []string{"HOST", "STATE", "SINCE", "PROTECTIONS", "VMS", "STORE FREE", "LIBVIRT", "QEMU", "AGENT", "LINK", "LINK USE", "LATE"}, rows)
}

func linkUse(v hostView) string {
	if v.LinkBudget <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f %% of %s/s", 100*v.LinkUse, ui.Bytes(v.LinkBudget))
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
