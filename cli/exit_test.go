package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/urfave/cli/v2"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// The table of docs/CLI.md; scripts rely on it.
func TestEveryKindOfFailureHasItsExitCode(t *testing.T) {
	for kind, want := range map[model.Kind]int{
		model.InvalidArgument: 64, model.NotFound: 10, model.Conflict: 11, model.ForeignCheckpoint: 11, model.JobConflict: 11,
		model.StaleGeneration: 11, model.Unsupported: 12, model.Refused: 12, model.FenceUnconfirmed: 12, model.Unreachable: 20,
		model.CheckpointLost: 1, model.QuiesceFailed: 1, model.NotRunning: 1, model.LinkDown: 1, model.TargetFull: 1, model.ChainBroken: 1,
		model.StagingLost: 1, model.VerifyMismatch: 1, model.Internal: 1, "SomethingNew": 1,
	} {
		require.Equal(t, want, exitCode(model.Fail(kind, nil, "x")), kind)
		require.Equal(t, want, exitCode(fmt.Errorf("wrapped: %w", model.Fail(kind, nil, "x"))), kind)
	}
	require.Equal(t, 1, exitCode(model.Fail(model.Unreachable, nil, "x").WithHost("host-a")), "one host is not the control plane")
	require.Equal(t, 0, exitCode(nil))
	require.Equal(t, 1, exitCode(errors.New("plain")))
	require.Equal(t, 130, exitCode(interrupted{"x"}))
	require.Equal(t, 130, exitCode(context.Canceled))
	require.Equal(t, 3, exitCode(errOutside))
	require.Equal(t, 64, exitCode(cli.Exit("urfave's own", 3)))
}

func TestAPlainErrorOfACommandExitsNonZero(t *testing.T) {
	d := sit(t)
	require.Equal(t, 1, d.run("server"))
	require.Contains(t, d.stderr.String(), "understudy: ")
}

func TestWrongUseIsSaidBeforeAnybodyIsAsked(t *testing.T) {
	for _, line := range []string{
		"", "statsu", "--nope", "status --nope", "status db1 --output json", "status --output xml", "status --interval 1ms",
		"protect db1", "protect --standby host-b", "protect --standby host-b db1 db2", "protect --standby HOST_B db1",
		"protect --standby host-b --primary host-b db1", "protect --standby host-b --rpo 0s db1", "protect --standby host-b --rpo soon db1",
		"protect --standby host-b --keep-last 1 db1", "protect --standby host-b --tier iron db1", "protect --standby host-b --bandwidth 12M db1",
		"protect --standby host-b --failover never db1", "protect --standby host-b --compression zip db1", "protect --standby host-b db1 --wait",
		"pause", "resume", "sync", "points", "unprotect", "failover", "failover --point 0 db1", "failover --point x db1", "hosts host-a", "doctor x",
		"set-policy db1", "set-policy --rpo 0s db1", "version x", "version --output xml", "help nosuch",
	} {
		d := sit(t)
		require.Equal(t, 64, d.run(strings.Fields(line)...), "understudy %s: %s", line, d.stderr.String())
		require.Zero(t, d.dialed, line)
		require.Empty(t, d.stdout.String(), line)
		require.NotEmpty(t, d.stderr.String(), line)
	}
}

func TestATypoNamesTheCommandThatWasMeant(t *testing.T) {
	d := sit(t)
	d.run("statsu")
	require.Contains(t, d.stderr.String(), "Try:  understudy status\n")
}

func TestEveryCommandHasAnExampleAndItsExitCodesAndIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/CLI.md")
	require.NoError(t, err)
	d := sit(t)
	for _, c := range d.app(nil).Commands {
		require.Contains(t, c.Description, "EXAMPLE\n", c.Name)
		require.Contains(t, c.Description, "EXIT STATUS\n", c.Name)
		require.True(t, strings.Contains(string(doc), "\n### understudy "+c.Name+"\n"), "docs/CLI.md has no section on %s", c.Name)
		for _, f := range c.Flags {
			require.True(t, strings.Contains(string(doc), "--"+f.Names()[0]), "docs/CLI.md does not name --%s of %s", f.Names()[0], c.Name)
		}
	}
	for _, m := range meanings {
		require.Regexp(t, regexp.MustCompile(fmt.Sprintf(`(?m)^\| %d +\| %s`, m.code, regexp.QuoteMeta(m.text))), string(doc))
	}
}

func TestErrorsSayWhatWhereWhyAndWhatToTry(t *testing.T) {
	d := sit(t)
	d.plane.find = func(string) (contract.DescribeOut, error) {
		return contract.DescribeOut{}, model.Fail(model.Refused, errors.New("/mnt/x is outside /srv"), "the disk vda may not be read").
			WithVM("db1").WithHost("host-a").WithTry("understudy agent --image-dir /mnt")
	}
	require.Equal(t, 12, d.run("sync", "db1"))
	require.Equal(t, `understudy: the disk vda may not be read
  VM:   db1
  host: host-a
  why:  /mnt/x is outside /srv
  Try:  understudy agent --image-dir /mnt
`, d.stderr.String())
	require.Equal(t, 12, d.run("sync", "--output", "json", "db1"))
	require.JSONEq(t, `{"message_type":"error","kind":"Refused","exit_code":12,"what":"the disk vda may not be read","vm":"db1","host":"host-a",
		"why":"/mnt/x is outside /srv","try":"understudy agent --image-dir /mnt"}`, d.stderr.String())
	require.Empty(t, d.stdout.String())
}
