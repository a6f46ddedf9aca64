package cli

import (
	"fmt"
	"sync"

	"github.com/urfave/cli/v2"

	"understudy/internal/contract"
	"understudy/internal/model"
	"understudy/internal/ui"
)

// doctorView is the documented JSON of `understudy doctor`.
type doctorView struct {
	MessageType string          `json:"message_type"` // "doctor"
	OK          bool            `json:"ok"`
	Hosts       []diagnosisView `json:"hosts"`
}

type diagnosisView struct {
	MessageType string        `json:"message_type,omitempty"` // "diagnosis" when it stands alone
	Host        string        `json:"host"`                   // "control" for the control plane
	OK          bool          `json:"ok"`
	Checks      []model.Check `json:"checks"`
}

func (e *env) doctorCommand() *cli.Command {
	return e.command(verb{
		name: "doctor", usage: "check the control plane and every host, and say what to do",
		about:   `Each host's agent checks its libvirt, QEMU, tools, store, clock and VMs. A failed check names the remedy.`,
		example: "understudy doctor\nunderstudy doctor --host kvm1",
		exits:   []int{exitNotFound},
		flags:   []cli.Flag{&cli.StringFlag{Name: "host", Usage: "only this `HOST`"}},
		do:      doctor,
	})
}

func doctor(c *call) error {
	closing, err := c.reach()
	if err != nil {
		return err
	}
	defer closing()
	states, err := patients(c)
	if err != nil {
		return err
	}
	out := doctorView{MessageType: "doctor", OK: true, Hosts: examine(c, states)}
	if c.String("host") == "" {
		control, err := controlPlane(c, states)
		if err != nil {
			return err
		}
		out.Hosts = append([]diagnosisView{control}, out.Hosts...)
	}
	bad := 0
	for i := range out.Hosts {
		d := &out.Hosts[i]
		d.OK = true
		for _, k := range d.Checks {
			if !k.OK {
				d.OK = false
				bad++
			}
		}
		out.OK = out.OK && d.OK
	}
	if err := printDoctor(c, out); err != nil {
		return err
	}
	if bad > 0 {
		return model.Fail(model.Internal, nil, "%d checks failed", bad)
	}
	return nil
}

func patients(c *call) ([]contract.HostWatchState, error) {
	if h := c.String("host"); h != "" {
		if !model.ValidHostID(model.HostID(h)) {
			return nil, model.Fail(model.InvalidArgument, nil, "%q cannot name a host", h).WithTry("understudy hosts")
		}
		s, err := c.s.Host(c.Context.Context, model.HostID(h))
		return []contract.HostWatchState{s}, err
	}
	return c.s.Hosts(c.Context.Context)
}

// controlPlane judges what can be seen from here.
func controlPlane(c *call, states []contract.HostWatchState) (diagnosisView, error) {
	n, err := c.s.Servers(c.Context.Context)
	if err != nil {
		return diagnosisView{}, err
	}
	server := model.Check{Name: "server", OK: n > 0, Detail: fmt.Sprintf("%d at work", n)}
	if !server.OK {
		server.Try = "understudy server on the control host"
	}
	heard := 0
	for _, s := range states {
		if !s.Silent {
			heard++
		}
	}
	hosts := model.Check{Name: "hosts", OK: heard >= 2, Detail: fmt.Sprintf("%d known, %d heard", len(states), heard)}
	if !hosts.OK {
		hosts.Detail += ": a protection needs two"
		hosts.Try = "understudy agent --host NAME --temporal-address " + c.String("temporal-address") + " on each libvirt host"
	}
	return diagnosisView{Host: "control", Checks: []model.Check{
		{Name: "temporal", OK: true, Detail: "answers at " + c.String("temporal-address")}, server, hosts,
	}}, nil
}

// examine asks all hosts at once: one that hangs must not hold the others up.
func examine(c *call, states []contract.HostWatchState) []diagnosisView {
	out := make([]diagnosisView, len(states))
	var wg sync.WaitGroup
	for i, s := range states {
		wg.Go(func() { out[i] = diagnose(c, s) })
	}
	wg.Wait()
	return out
}

func diagnose(c *call, s contract.HostWatchState) diagnosisView {
	v := diagnosisView{Host: string(s.Facts.Host)}
	if s.Silent {
		v.Checks = []model.Check{{
			Name: "agent", Detail: "not heard since " + ui.Ago(s.LastHeard, c.now()),
			Try: "look at the host: is it up, is its network, does `understudy agent` run?",
		}}
		return v
	}
	got, err := c.s.Inspect(c.Context.Context, s.Facts.Host, contract.InspectIn{Doctor: true})
	if err != nil {
		v.Checks = []model.Check{{Name: "agent", Detail: err.Error(), Try: "look at the log of `understudy agent` on the host"}}
		return v
	}
	v.Checks = append([]model.Check{{Name: "agent", OK: true, Detail: "answers, version " + got.Facts.AgentVersion}}, got.Checks...)
	return v
}

func printDoctor(c *call, out doctorView) error {
	switch c.output {
	case ui.JSON:
		return ui.Print(c.out, ui.JSON, out)
	case ui.JSONL:
		for _, v := range out.Hosts {
			v.MessageType = "diagnosis"
			if err := ui.Print(c.out, ui.JSONL, v); err != nil {
				return err
			}
		}
		return nil
	case ui.Table:
	}
	var rows [][]string
	var todo []string
	for _, h := range out.Hosts {
		for _, k := range h.Checks {
			verdict := "ok"
			if !k.OK {
				verdict = "FAILED"
				if k.Try != "" {
					todo = append(todo, fmt.Sprintf("%s, %s: Try: %s", h.Host, k.Name, k.Try))
				}
			}
			rows = append(rows, []string{h.Host, k.Name, verdict, k.Detail})
		}
	}
	if err := ui.Rows(c.out, []string{"HOST", "CHECK", "RESULT", "DETAIL"}, rows); err != nil {
		return err
	}
	for _, t := range todo {
		if err := c.line("%s", t); err != nil {
			return err
		}
	}
	return nil
}
