package cli

import (
	"github.com/urfave/cli/v2"

	"understudy/internal/contract"
	"understudy/internal/model"
	"understudy/internal/ui"
)

type recoverView struct {
	MessageType string               `json:"message_type"` // "recover"
	Recovered   []contract.Recovered `json:"recovered"`
}

func (e *env) recoverCommand() *cli.Command {
	return e.command(verb{
		name: "recover", usage: "begin protections again after Temporal's database was lost",
		about: `The control plane's records (records/ in --data-dir of the server) say who may run each VM and what was promised, the standbys say
which points there are. Protections that run are left alone; nothing is started or stopped. A takeover that was under way is
given back to the VM's last host. The first point after it compares everything by digest.`,
		example: "understudy recover",
		exits:   []int{},
		do:      recoverAll,
	})
}

func recoverAll(c *call) error {
	closing, err := c.reach()
	if err != nil {
		return err
	}
	defer closing()
	out, err := c.s.Recover(c.Context.Context)
	if err != nil {
		return err
	}
	failed := 0
	rows := [][]string{}
	for _, r := range out.Recovered {
		if r.Result == contract.RecoverFailed {
			failed++
		}
		rows = append(rows, []string{r.VM.Name, r.Result, r.Detail})
	}
	if c.output == ui.Table {
		err = ui.Rows(c.out, []string{"VM", "RESULT", "DETAIL"}, rows)
	} else {
		err = ui.Print(c.out, c.output, recoverView{"recover", out.Recovered})
	}
	if err == nil && failed > 0 {
		err = model.Fail(model.Internal, nil, "%d of %d protections could not be recovered", failed, len(out.Recovered)).
			WithTry("understudy hosts, then understudy recover")
	}
	return err
}
