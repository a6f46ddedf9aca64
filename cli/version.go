package cli

import (
	"fmt"
	"runtime"

	"github.com/urfave/cli/v2"

	"understudy/internal/model"
	"understudy/internal/ui"
)

type versionView struct {
	MessageType string `json:"message_type"` // "version"
	Version     string `json:"version"`
	Go          string `json:"go"`
	PointFormat int    `json:"point_format"`
}

func (e *env) versionCommand() *cli.Command {
	return &cli.Command{
		Name: "version", Usage: "print the version",
		Description: "EXAMPLE\n   understudy version --output json\n\n" + exitStatus(exitDone, exitUsage),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "`FORMAT` of the result: table, json or jsonl"},
		},
		Action: func(c *cli.Context) error {
			o, err := ui.ParseOutput(c.String("output"))
			if err != nil {
				return model.Fail(model.InvalidArgument, nil, "%s", err.Error()).WithTry("--output json")
			}
			v := versionView{"version", model.Version(), runtime.Version(), model.PointFormat}
			if o != ui.Table {
				return ui.Print(e.out, o, v)
			}
			_, err = fmt.Fprintf(e.out, "understudy %s (%s, point format %d)\n", v.Version, v.Go, v.PointFormat)
			return err
		},
	}
}
