// Package guard composes the process that stops protected VMs whose lease ran out, the start gate that libvirt calls, and the
// few commands by which a person asks it.
package guard

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"understudy/internal/guard"
	"understudy/internal/model"
)

// Command is `understudy guard`.
func Command() *cli.Command {
	parts := []*cli.Command{hookCommand(), installCommand(), armCommand(), stopCommand(), forgetCommand(), listCommand()}
	for _, p := range parts {
		p.HideHelpCommand = true
		p.OnUsageError = func(c *cli.Context, err error, _ bool) error {
			return model.Fail(model.InvalidArgument, err, "guard %s", c.Command.Name).WithTry("understudy guard " + c.Command.Name + " --help")
		}
	}
	return &cli.Command{
		Name:  "guard",
		Usage: "run beside the agent: stop a VM whose lease ran out, gate every start",
		Description: `Without a sub-command it guards this host. It starts before libvirtd and the agent, and is restarted at once when it dies: it
reads its deadlines back. Stopping it while VMs are leased leaves the watchdog armed, which resets the host unless it comes
back in time; protection is ended by ` + "`understudy unprotect`" + `, or the VM is released to mode sole first.

EXAMPLE
   understudy guard --watchdog /dev/watchdog
   understudy guard install-hook && systemctl restart libvirtd
   understudy guard list

EXIT STATUS
   0 ended by a signal, 1 failed, 11 another guard serves these folders, 64 usage`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "run-dir", Value: "/run/understudy", Usage: "its socket, and the deadlines of this boot; a tmpfs"},
			&cli.StringFlag{Name: "state-dir", Value: "/var/lib/understudy", Usage: "the list of protected VMs, and its journal guard.log"},
			&cli.StringFlag{Name: "watchdog", DefaultText: "none", Usage: "watchdog `DEVICE` that resets this host when the guard fails; nobody else may use it"},
			&cli.IntFlag{Name: "watchdog-level", Usage: "`LEVEL` of a device that does not tell its kind: 2 kernel, 3 board"},
			&cli.BoolFlag{Name: "disarm", Usage: "stop the watchdog at a clean end even while VMs are leased"},
		},
		Subcommands: parts,
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return model.Fail(model.InvalidArgument, nil, "guard has no command %q", c.Args().First()).WithTry("understudy guard --help")
			}
			return run(c.Context, guard.Options{
				RunDir: clean(c, "run-dir"), StateDir: clean(c, "state-dir"),
				Watchdog: c.String("watchdog"), WatchdogLevel: c.Int("watchdog-level"), Disarm: c.Bool("disarm"),
				Log: slog.New(slog.NewTextHandler(os.Stderr, nil)).With("process", "guard"),
			})
		},
	}
}

func clean(c *cli.Context, flag string) string { return filepath.Clean(c.String(flag)) }

func run(ctx context.Context, o guard.Options) error {
	if o.WatchdogLevel < 0 || o.WatchdogLevel > 3 {
		return model.Fail(model.InvalidArgument, nil, "--watchdog-level is 2 or 3, not %d", o.WatchdogLevel)
	}
	unix.Umask(0o077)
	g, err := guard.New(o)
	if err != nil {
		return err
	}
	if err := guard.Steady(); err != nil {
		o.Log.Warn("steady", "error", err)
	}
	return g.Run(ctx)
}

// patience of one question: the guard answers in a millisecond, or after both lines of a stop.
const patience = 8 * time.Second

func ask(c *cli.Context, f func(ctx context.Context, g *guard.Client) error) error {
	ctx, cancel := context.WithTimeout(c.Context, patience)
	defer cancel()
	return f(ctx, guard.Dial(guard.Socket(clean(c, "run-dir"))))
}
