package main

import (
	"flag"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/cli"
	"understudy/workers/agent"
	"understudy/workers/control"
	"understudy/workers/guard"

	urfave "github.com/urfave/cli/v2"
)

var update = flag.Bool("update", false, "write deploy/packaging/conf anew")

// Every flag of a process is in the file that the package installs, with the default that the program has.
func TestTheConfigurationFilesHoldEveryFlag(t *testing.T) {
	for _, c := range []*urfave.Command{control.Command(), agent.Command(), guard.Command()} {
		t.Run(c.Name, func(t *testing.T) {
			path := "../../deploy/packaging/conf/" + c.Name + ".conf"
			want := cli.Configuration(c)
			if *update {
				require.NoError(t, os.WriteFile(path, []byte(want), 0o644))
			}
			got, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, want, string(got), "go test ./cli/understudy -update")
		})
	}
}
