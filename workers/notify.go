package workers

import (
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"understudy/internal/model"
	"understudy/internal/notify"
)

// NotifyOptions of a process that tells people of its alarms.
type NotifyOptions struct {
	URLs   []string
	File   string
	Repeat time.Duration
}

const leastRepeat = time.Minute

// NotifyFlags are those of server and agent.
func NotifyFlags() []cli.Flag {
	return []cli.Flag{
		&cli.GenericFlag{Name: "notify", Value: &notify.URLs{}, Usage: "tell people of alarms at this `URL`, smtp://… or https://… (docs/OPERATIONS.md); repeatable, in the environment several between spaces. One with a password belongs there or into --notify-file"},
		&cli.StringFlag{Name: "notify-file", Value: notify.DefaultFile, Usage: "`FILE` with such URLs, one a line, which only its owner and group may read; it need not exist"},
		&cli.DurationFlag{Name: "notify-repeat", Value: 4 * time.Hour, Usage: "an alarm that lasts is told again after this"},
	}
}

// NotifyFrom reads them.
func NotifyFrom(c *cli.Context) NotifyOptions {
	o := NotifyOptions{File: c.String("notify-file"), Repeat: c.Duration("notify-repeat")}
	if urls, ok := c.Generic("notify").(*notify.URLs); ok {
		o.URLs = *urls
	}
	return o
}

// Desk opens the receivers; nil when there are none. What was said is kept in the state folder.
func (o NotifyOptions) Desk(process, host, stateDir string, log *slog.Logger) (*notify.Desk, error) {
	to, err := notify.Config{URLs: o.URLs, File: o.File, Args: os.Args}.Receivers()
	if err != nil {
		return nil, err
	}
	if len(to) > 0 && o.Repeat < leastRepeat {
		return nil, model.Fail(model.InvalidArgument, nil, "--notify-repeat is %s, at least %s", o.Repeat, leastRepeat).WithTry("--notify-repeat 4h")
	}
	if host == "" {
		host, _ = os.Hostname() // it only says where a message comes from
	}
	return notify.NewDesk(to, notify.Options{
		Source: notify.Source{Process: process, Host: host}, File: filepath.Join(stateDir, "notified.json"), Repeat: o.Repeat, Log: log, Now: time.Now,
	}), nil
}
