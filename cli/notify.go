package cli

import (
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"understudy/internal/model"
	"understudy/internal/notify"
	"understudy/internal/ui"
)

// notifyView is the documented JSON of `understudy notify test`.
type notifyView struct {
	MessageType string         `json:"message_type"` // "notify_test"
	Receivers   []receiverView `json:"receivers"`
}

type receiverView struct {
	MessageType string  `json:"message_type,omitempty"` // "receiver" when it stands alone
	Receiver    string  `json:"receiver"`               // scheme and host
	OK          bool    `json:"ok"`
	Seconds     float64 `json:"took_s"`
	Error       string  `json:"error"`
}

func (e *env) notifyCommand() *cli.Command {
	test := &cli.Command{
		Name: "test", Usage: "send a test message to each receiver and say what became of it",
		Description: `Run it on a host or on the server's machine: it reads the file that server and agent read, and asks nobody else. Of a receiver only scheme
and host are printed.

EXAMPLE
   understudy notify test
   understudy notify test --notify 'https://chat.example.org/hooks/understudy'

` + exitStatus(exitDone, exitFailed, exitUsage),
		Flags: []cli.Flag{
			&cli.GenericFlag{
				Name: "notify", Value: &notify.URLs{}, EnvVars: []string{"UNDERSTUDY_NOTIFY", "UNDERSTUDY_AGENT_NOTIFY", "UNDERSTUDY_SERVER_NOTIFY"},
				Usage: "also a receiver at this `URL`; repeatable. One with a password belongs into --notify-file",
			},
			&cli.StringFlag{
				Name: "notify-file", Value: notify.DefaultFile, Usage: "`FILE` with receivers, one URL a line",
				EnvVars: []string{"UNDERSTUDY_NOTIFY_FILE", "UNDERSTUDY_AGENT_NOTIFY_FILE", "UNDERSTUDY_SERVER_NOTIFY_FILE"},
			},
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "`FORMAT` of the result: table, json or jsonl"},
		},
		Action: e.notifyTest,
	}
	test.OnUsageError, test.HideHelpCommand, test.Action = usage, true, strict(test.Action)
	return &cli.Command{
		Name: "notify", Usage: "try the messages that alarms send to people", ArgsUsage: "COMMAND",
		Description: "EXAMPLE\n   understudy notify test\n\n" + exitStatus(exitDone, exitFailed, exitUsage),
		Subcommands: []*cli.Command{test},
		Action: func(c *cli.Context) error {
			return model.Fail(model.InvalidArgument, nil, "notify needs a command: test").WithTry("understudy notify test")
		},
	}
}

func (e *env) notifyTest(c *cli.Context) error {
	output, err := ui.ParseOutput(c.String("output"))
	if err != nil {
		return model.Fail(model.InvalidArgument, nil, "%s", err.Error()).WithTry("--output json")
	}
	config := notify.Config{File: c.String("notify-file"), Args: os.Args}
	if urls, ok := c.Generic("notify").(*notify.URLs); ok {
		config.URLs = *urls
	}
	to, err := config.Receivers()
	if err != nil {
		return err
	}
	if len(to) == 0 {
		return model.Fail(model.InvalidArgument, nil, "there is no receiver: %s does not exist or names none", config.File).
			WithTry("understudy notify test --notify URL; the URLs are in docs/OPERATIONS.md, \"Notifications\"")
	}
	host, _ := os.Hostname() // it only says where the message comes from
	view := notifyView{MessageType: "notify_test"}
	failed := 0
	for _, t := range notify.Test(c.Context, to, notify.Source{Process: "notify test", Host: host}, e.who, e.now()) {
		v := receiverView{Receiver: t.Receiver, OK: t.Err == nil, Seconds: t.Took.Seconds()}
		if t.Err != nil {
			v.Error = t.Err.Error()
			failed++
		}
		view.Receivers = append(view.Receivers, v)
	}
	if err := e.printTried(output, view); err != nil {
		return err
	}
	if failed > 0 {
		return model.Fail(model.LinkDown, nil, "%d of %d receivers did not take the message", failed, len(to)).WithTry("repair its URL or the receiver, then understudy notify test")
	}
	return nil
}

func (e *env) printTried(output ui.Output, view notifyView) error {
	switch output {
	case ui.JSON:
		return ui.Print(e.out, output, view)
	case ui.JSONL:
		for _, r := range view.Receivers {
			r.MessageType = "receiver"
			if err := ui.Print(e.out, output, r); err != nil {
				return err
			}
		}
		return nil
	case ui.Table:
	}
	var rows [][]string
	for _, r := range view.Receivers {
		result := "delivered"
		if !r.OK {
			result = "failed: " + r.Error
		}
		rows = append(rows, []string{r.Receiver, ui.Duration(time.Duration(r.Seconds * float64(time.Second))), result})
	}
	return ui.Rows(e.out, []string{"RECEIVER", "TOOK", "RESULT"}, rows)
}
