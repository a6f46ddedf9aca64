package cli

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"understudy/internal/contract"
	"understudy/internal/decide/leftover"
	"understudy/internal/model"
	"understudy/internal/ui"
)

// marksView is the documented JSON of `understudy marks`.
type marksView struct {
	MessageType string     `json:"message_type"` // "marks"
	Clean       bool       `json:"clean"`        // no leftovers
	Leftovers   int        `json:"leftovers"`
	Foreign     int        `json:"foreign"`
	Marks       []markView `json:"marks"`
	Failed      []string   `json:"failed"` // what --clean could not remove, hosts that could not be asked
}

type markView struct {
	MessageType string       `json:"message_type,omitempty"` // "mark" when it stands alone
	Host        model.HostID `json:"host"`
	model.Mark
	Verdict leftover.Verdict `json:"verdict"`
	Why     string           `json:"why"`
	Removed bool             `json:"removed,omitempty"`
}

func (e *env) marksCommand() *cli.Command {
	return e.command(verb{
		name: "marks", usage: "list all that is left on hosts, and whether it is expected", args: "[HOST]",
		about: `Checkpoints, backup jobs, scratch files, staging areas, overlays, sockets, qemu-nbd processes and records: each is ok, a
leftover or foreign (somebody else's; never touched). Exit 3 when there are leftovers. --clean removes leftovers; what
is in use is refused.`,
		example: "understudy marks\nunderstudy marks --clean --yes host-a",
		exits:   []int{exitOutside, exitNotFound},
		flags: []cli.Flag{
			&cli.BoolFlag{Name: "clean", Usage: "remove the leftovers"}, yesFlag(),
			&cli.BoolFlag{Name: "all", Usage: "show what is expected too (JSON always does)"},
		},
		do: marks,
	})
}

// settleTime is how long something may be there that a cycle is about to remove.
const settleTime = 2 * time.Second

func marks(c *call) error {
	if c.NArg() > 1 {
		return model.Fail(model.InvalidArgument, nil, "marks takes one host, not %q", c.Args().Slice()).WithTry("understudy marks")
	}
	closing, err := c.reach()
	if err != nil {
		return err
	}
	defer closing()
	hosts, err := markedHosts(c)
	if err != nil {
		return err
	}
	out, err := judged(c, hosts, nil)
	if err != nil {
		return err
	}
	if out.Leftovers > 0 { // a cycle may just be about to remove it: what counts is there twice
		if err := wait(c.Context.Context, settleTime); err != nil {
			return err
		}
		if out, err = judged(c, hosts, nil); err != nil {
			return err
		}
	}
	if c.Bool("clean") && out.Leftovers > 0 {
		if err := c.sure(fmt.Sprintf("Remove %d leftovers?", out.Leftovers)); err != nil {
			return err
		}
		remove := map[model.HostID][]model.Mark{}
		for _, m := range out.Marks {
			if m.Verdict == leftover.Leftover {
				remove[m.Host] = append(remove[m.Host], m.Mark)
			}
		}
		if out, err = judged(c, hosts, remove); err != nil {
			return err
		}
	}
	if err := printMarks(c, out); err != nil {
		return err
	}
	if !out.Clean {
		return errOutside
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func markedHosts(c *call) ([]contract.HostWatchState, error) {
	if h := model.HostID(c.Args().First()); h != "" {
		if !model.ValidHostID(h) {
			return nil, model.Fail(model.InvalidArgument, nil, "%q cannot name a host", h).WithTry("understudy hosts")
		}
		s, err := c.s.Host(c.Context.Context, h)
		return []contract.HostWatchState{s}, err
	}
	return c.s.Hosts(c.Context.Context)
}

// judged asks all hosts at once, then the protections: what they say is younger than the marks.
func judged(c *call, hosts []contract.HostWatchState, remove map[model.HostID][]model.Mark) (marksView, error) {
	answers := make([]contract.MarksOut, len(hosts))
	errs := make([]error, len(hosts))
	var wg sync.WaitGroup
	for i, s := range hosts {
		wg.Go(func() {
			answers[i], errs[i] = c.s.Marks(c.Context.Context, s.Facts.Host, contract.MarksIn{Remove: remove[s.Facts.Host]})
		})
	}
	wg.Wait()
	protections, err := c.s.List(c.Context.Context)
	if err != nil {
		return marksView{}, err
	}
	known := map[string]*leftover.Known{}
	for _, d := range protections {
		known[d.Spec.VM.UUID] = knownOf(d)
	}
	out := marksView{MessageType: "marks", Clean: true, Marks: []markView{}, Failed: []string{}}
	for i, s := range hosts {
		if errs[i] != nil {
			out.Clean = false
			out.Failed = append(out.Failed, errs[i].Error())
			continue
		}
		out.Failed = append(out.Failed, answers[i].Failed...)
		for _, m := range answers[i].Marks {
			v := markView{Host: s.Facts.Host, Mark: m}
			k := known[m.VM.UUID]
			if k != nil && m.VM.Name == "" {
				v.VM.Name = k.VM.Name
			}
			v.Verdict, v.Why = leftover.Judge(m, s.Facts.Host, k)
			switch v.Verdict {
			case leftover.Leftover:
				out.Leftovers++
				out.Clean = false
			case leftover.Foreign:
				out.Foreign++
			case leftover.OK:
			}
			out.Marks = append(out.Marks, v)
		}
		for _, m := range answers[i].Removed {
			out.Marks = append(out.Marks, markView{Host: s.Facts.Host, Mark: m, Verdict: leftover.Leftover, Why: "removed", Removed: true})
		}
	}
	return out, nil
}

func knownOf(d contract.DescribeOut) *leftover.Known {
	st := d.State
	return &leftover.Known{
		VM: d.Spec.VM, Primary: st.Primary, Standby: st.Standby, Generation: st.Generation, Committed: st.Committed,
		Busy:    st.Failover != nil && st.Failover.Outcome == "" || st.Phase == model.PhaseFailingOver || st.Failover != nil && !st.StandbyReady,
		Testing: st.Testing != nil,
	}
}

func printMarks(c *call, out marksView) error {
	switch c.output {
	case ui.JSON:
		return ui.Print(c.out, ui.JSON, out)
	case ui.JSONL:
		for _, v := range out.Marks {
			v.MessageType = "mark"
			if err := ui.Print(c.out, ui.JSONL, v); err != nil {
				return err
			}
		}
		return nil
	case ui.Table:
	}
	var rows [][]string
	for _, v := range out.Marks {
		if v.Verdict == leftover.OK && !c.Bool("all") {
			continue
		}
		vm := v.VM.Name
		if vm == "" {
			vm = v.VM.UUID
		}
		rows = append(rows, []string{string(v.Host), vm, string(v.Kind), string(v.Verdict), v.Name, v.Why})
	}
	if len(rows) > 0 {
		if err := ui.Rows(c.out, []string{"HOST", "VM", "KIND", "VERDICT", "NAME", "WHY"}, rows); err != nil {
			return err
		}
	}
	for _, f := range out.Failed {
		fmt.Fprintln(c.err, f)
	}
	return c.line("%d marks, %d leftovers, %d foreign", len(out.Marks), out.Leftovers, out.Foreign)
}
