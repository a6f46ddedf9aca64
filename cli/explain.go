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

// explainView is the documented JSON of `understudy explain`; the newest decision is the last.
type explainView struct {
	MessageType string         `json:"message_type"` // "explanation"
	VM          string         `json:"vm"`
	UUID        string         `json:"uuid"`
	Policy      policyView     `json:"policy"`
	Gear        string         `json:"gear,omitempty"` // of the next cycle, or of the one under way
	Degraded    string         `json:"degraded,omitempty"`
	Cycles      int            `json:"cycles_learned"`
	Decisions   []decisionView `json:"decisions"`
	Memory      *memoryView    `json:"guest_memory,omitempty"`
}

// memoryView is how fast the guest dirtied its memory, by libvirt's estimate.
type memoryView struct {
	Dirty int64     `json:"dirty_bytes_per_s"`
	At    time.Time `json:"at"`
}

func memoryOf(r *model.MemoryRate) *memoryView {
	if r == nil {
		return nil
	}
	return &memoryView{r.BytesPerSecond, r.At}
}

type decisionView struct {
	MessageType string              `json:"message_type,omitempty"` // "decision" when it stands alone
	VM          string              `json:"vm,omitempty"`
	At          time.Time           `json:"at"`
	StartIn     float64             `json:"start_in_s"`
	NextAt      time.Time           `json:"next_at"`
	Interval    float64             `json:"interval_s"`
	Look        bool                `json:"look"` // no cycle at next_at, only a new look
	Binding     model.Binding       `json:"binding"`
	Reason      string              `json:"reason"`
	RPO         float64             `json:"rpo_s"`
	Window      string              `json:"window,omitempty"`
	Gear        string              `json:"gear,omitempty"` // of a cycle that begins with it
	Times       int                 `json:"times"`
	Inputs      []contract.Quantity `json:"inputs"`
	Change      []string            `json:"what_would_change_it"`
}

func (e *env) explainCommand() *cli.Command {
	return e.command(verb{
		name: "explain", usage: "say why the next point is made when it is: the last decisions with what they rested on", args: "VM",
		about: `Each decision names when the next cycle starts, what bound it, the figures it rested on, and what would change it: the
same state is put to the same law with one thing other. A decision that repeats is shown once, with how often it was
made. At most twenty are kept; older ones are in the history of the workflow.`,
		example: "understudy explain db1\nunderstudy explain --output json db1",
		exits:   []int{exitNotFound, exitConflict},
		flags:   []cli.Flag{&cli.IntFlag{Name: "last", Value: 5, Usage: "`N` decisions in the table (json has all)"}},
		do:      explain,
	})
}

func explain(c *call) error {
	if c.Int("last") < 1 {
		return model.Fail(model.InvalidArgument, nil, "--last must be at least 1, not %d", c.Int("last")).WithTry("--last 5")
	}
	d, closing, err := c.find()
	defer closing()
	if err != nil {
		return err
	}
	out, err := c.s.Explain(c.Context.Context, d.Spec.VM)
	if err != nil {
		return err
	}
	v := explainView{"explanation", out.VM.Name, out.VM.UUID, policyOf(out.Policy), out.Gear, out.Degraded, out.Cycles, []decisionView{}, memoryOf(out.Memory)}
	for _, x := range out.Decisions {
		v.Decisions = append(v.Decisions, decisionOf(x))
	}
	switch c.output {
	case ui.JSON:
		return ui.Print(c.out, ui.JSON, v)
	case ui.JSONL:
		for _, x := range v.Decisions {
			x.MessageType, x.VM = "decision", v.VM
			if err := ui.Print(c.out, ui.JSONL, x); err != nil {
				return err
			}
		}
		return nil
	case ui.Table:
	}
	return explainTable(c, v)
}

func decisionOf(d contract.Decision) decisionView {
	v := decisionView{
		At: d.At, StartIn: d.Cadence.StartIn.Seconds(), NextAt: d.Cadence.NextAt, Interval: d.Cadence.Interval.Seconds(), Look: d.Cadence.Skip,
		Binding: d.Cadence.Binding, Reason: d.Cadence.Reason, RPO: d.RPO.Seconds(), Window: d.Window, Gear: d.Gear, Times: d.Times,
		Inputs: d.Inputs, Change: d.Change,
	}
	if v.Inputs == nil {
		v.Inputs = []contract.Quantity{}
	}
	if v.Change == nil {
		v.Change = []string{}
	}
	return v
}

// explainTable shows the last decisions, and all about the newest.
func explainTable(c *call, v explainView) error {
	if len(v.Decisions) == 0 {
		fmt.Fprintf(c.err, "nothing was decided about %s yet. Try: understudy status %s\n", v.VM, v.VM)
		return nil
	}
	var rows [][]string
	for _, d := range v.Decisions[max(0, len(v.Decisions)-c.Int("last")):] {
		rows = append(rows, []string{
			d.At.Local().Format("15:04:05.0"), d.choice(), string(d.Binding), d.window(), fmt.Sprint(d.Times), d.Reason,
		})
	}
	if err := ui.Rows(c.out, []string{"AT", "NEXT", "BINDING", "RPO", "TIMES", "REASON"}, rows); err != nil {
		return err
	}
	last := v.Decisions[len(v.Decisions)-1]
	var b strings.Builder
	var words []string
	for _, q := range last.Inputs {
		if text := q.String(); text != "" {
			words = append(words, text)
		}
	}
	if len(words) > 0 {
		fmt.Fprintf(&b, "the newest rests on: %s\n", strings.Join(words, ", "))
	}
	for _, what := range last.Change {
		fmt.Fprintf(&b, "would change it: %s\n", what)
	}
	if v.Gear != "" {
		fmt.Fprintf(&b, "gear: %s\n", gearWords(v.Gear))
	}
	if v.Degraded != "" {
		fmt.Fprintf(&b, "not everything fits: %s\n", v.Degraded)
	}
	if v.Memory != nil {
		fmt.Fprintf(&b, "the guest dirties %s/s of its memory (at %s; no point holds memory, and nothing rests on it)\n", ui.Bytes(v.Memory.Dirty), v.Memory.At.Local().Format("15:04:05"))
	}
	if b.Len() == 0 {
		return nil
	}
	return c.line("%s", strings.TrimRight(b.String(), "\n"))
}

func (d decisionView) choice() string {
	switch {
	case d.Look:
		return "look in " + ui.Duration(seconds(d.StartIn))
	case d.StartIn <= 0:
		return "point now"
	}
	return "point in " + ui.Duration(seconds(d.StartIn))
}

func (d decisionView) window() string {
	text := ui.Duration(seconds(d.RPO))
	if d.Window != "" {
		text += " (" + d.Window + ")"
	}
	return text
}

func gearWords(gear string) string {
	switch gear {
	case contract.GearMerged:
		return "merged: the primary captures and sends in one, and answers with a look"
	case contract.GearStages:
		return "stages: capturing and sending are apart, with looks in between"
	}
	return gear
}
