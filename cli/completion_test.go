package cli

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// tab presses the key. urfave/cli looks at os.Args for the word before the cursor.
func (d *desk) tab(t *testing.T, words ...string) {
	args := append(words, "--generate-bash-completion")
	before := os.Args
	defer func() { os.Args = before }()
	os.Args = append([]string{"understudy"}, args...)
	require.Equal(t, 0, d.run(args...))
}

func TestTheShellCompletesCommandsFlagsAndVMs(t *testing.T) {
	d := sit(t)
	d.plane.list = []contract.DescribeOut{protected()}
	d.tab(t)
	require.Contains(t, d.stdout.String(), "failover")
	d.tab(t, "failover")
	require.Contains(t, d.stdout.String(), "db1\n")
	d.tab(t, "status", "--wa")
	require.Contains(t, d.stdout.String(), "--watch")
}

func TestCompletionSaysNothingWhenNobodyAnswers(t *testing.T) {
	d := sit(t)
	d.plane.listErr = model.Fail(model.Unreachable, nil, "nobody")
	d.tab(t, "failover")
	require.Empty(t, d.stderr.String())
	require.NotContains(t, d.stdout.String(), "nobody")
}

func TestCompletionPrintsTheScriptOfAShell(t *testing.T) {
	d := sit(t)
	require.Equal(t, 0, d.run("completion", "bash"))
	require.Contains(t, d.stdout.String(), "complete -o default -F _understudy understudy")
	require.Equal(t, exitUsage, d.run("completion", "fish"))
	require.Contains(t, d.stderr.String(), "bash or zsh")
}
