package guard

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"understudy/internal/guard"
	"understudy/internal/model"
)

func hookCommand() *cli.Command {
	return &cli.Command{
		Name:      "hook",
		Usage:     "the start gate, called by libvirt with the domain's XML on standard input",
		ArgsUsage: "DOMAIN OPERATION SUB-OPERATION EXTRA",
		Description: `Refuses prepare, migrate and restore of a VM that is protected and not armed on this host. When the guard does not answer,
all VMs of its list are refused and others pass. Other operations pass unseen.

EXIT STATUS
   0 libvirt goes on, 12 refused, 64 usage`,
		Action: func(c *cli.Context) error {
			if c.NArg() < 3 {
				return model.Fail(model.InvalidArgument, nil, "libvirt calls a hook with DOMAIN OPERATION SUB-OPERATION EXTRA")
			}
			if !guard.Gated(c.Args().Get(1), c.Args().Get(2)) {
				_, err := io.Copy(io.Discard, os.Stdin)
				return err
			}
			return ask(c, func(ctx context.Context, g *guard.Client) error {
				return guard.Gate(ctx, g, clean(c, "state-dir"), os.Stdin)
			})
		},
	}
}

func installCommand() *cli.Command {
	return &cli.Command{
		Name:  "install-hook",
		Usage: "put the start gate into libvirt's hooks (needs a restart of libvirtd)",
		Description: `Writes HOOKS-DIR/qemu.d/50-understudy, beside a hook of your own. libvirtd reads a new hook only when it starts; doctor
proves that it does. The hook holds the folders of this call: give the guard's flags as the guard has them.

EXAMPLE
   understudy guard install-hook && systemctl restart libvirtd

EXIT STATUS
   0 installed, 1 failed, 11 the file is somebody else's`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "hooks-dir", Value: "/etc/libvirt/hooks", Usage: "libvirt's hooks"},
			&cli.StringFlag{Name: "program", DefaultText: "this program", Usage: "`PATH` of understudy that the hook calls"},
			&cli.BoolFlag{Name: "remove", Usage: "take it away instead"},
		},
		Action: func(c *cli.Context) error {
			dir := clean(c, "hooks-dir")
			if c.Bool("remove") {
				return guard.RemoveHook(dir)
			}
			program := c.String("program")
			if program == "" {
				self, err := os.Executable()
				if err != nil {
					return model.Fail(model.Internal, err, "this program does not know its path").WithTry("--program PATH")
				}
				program = self
			}
			program, err := filepath.Abs(program)
			if err != nil {
				return model.Fail(model.InvalidArgument, err, "--program %s", program)
			}
			changed, err := guard.InstallHook(dir, program, clean(c, "run-dir"), clean(c, "state-dir"))
			if err != nil {
				return err
			}
			word := "unchanged"
			if changed {
				word = "written; restart libvirtd (the VMs go on)"
			}
			_, err = fmt.Fprintln(c.App.Writer, guard.HookFile(dir), word)
			return err
		},
	}
}
