package cli

import (
	"context"
	_ "embed"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"understudy/internal/model"
)

//go:embed shell/completion.bash
var bashCompletion string

//go:embed shell/completion.zsh
var zshCompletion string

// namesLimit bounds the question for VM names: somebody waits for it after a key press.
const namesLimit = time.Second

func (e *env) completionCommand() *cli.Command {
	return &cli.Command{
		Name: "completion", Usage: "print the completion script of a shell: bash or zsh", ArgsUsage: "SHELL",
		Description: "EXAMPLE\n   understudy completion bash >/etc/bash_completion.d/understudy\n   source <(understudy completion bash)\n\n" + exitStatus(exitDone, exitUsage),
		Action: func(c *cli.Context) error {
			script := map[string]string{"bash": bashCompletion, "zsh": zshCompletion}[c.Args().First()]
			if script == "" || c.NArg() != 1 {
				return model.Fail(model.InvalidArgument, nil, "completion needs the name of a shell: bash or zsh").WithTry("understudy completion bash")
			}
			_, err := fmt.Fprint(e.out, script)
			return err
		},
	}
}

// complete offers flags, and the names of the protected VMs where a VM is wanted. It says nothing when nobody answers.
func (e *env) complete(v verb) cli.BashCompleteFunc {
	return func(c *cli.Context) {
		cli.DefaultCompleteWithFlags(c.Command)(c)
		if !strings.Contains(v.args, "VM") || c.NArg() > 0 {
			return
		}
		ctx, cancel := context.WithTimeout(c.Context, namesLimit)
		defer cancel()
		s, err := e.connect(ctx, target{c.String("temporal-address"), c.String("namespace"), c.String("tls-dir")})
		if err != nil {
			return
		}
		defer s.Close()
		list, err := s.Overview(ctx)
		if err != nil {
			return
		}
		for _, d := range list {
			fmt.Fprintln(c.App.Writer, d.Spec.VM.Name)
		}
	}
}
