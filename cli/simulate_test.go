package cli

import (
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/urfave/cli/v2"

	"understudy/internal/simulate"
)

func TestSimulatingAsksNobody(t *testing.T) {
	d := sit(t)
	dir := t.TempDir()
	plot, csv := filepath.Join(dir, "p.svg"), filepath.Join(dir, "t.csv.gz")
	require.Equal(t, exitDone, d.run("simulate", "--trace", "boot", "--length", "10m", "--rpo", "5s", "--link", "100mbit", "--plot", plot, "--export", csv, "--output", "json"), d.stderr.String())
	v := d.answer(t)
	require.Equal(t, "simulation", v["message_type"])
	require.Equal(t, 12.5e6, v["link_bytes_per_s"])
	require.Len(t, v["results"], 7)
	first := v["results"].([]any)[0].(map[string]any)
	require.Equal(t, "adaptive", first["planner"])
	require.Zero(t, first["violations"])
	svg, err := os.ReadFile(plot)
	require.NoError(t, err)
	require.Contains(t, string(svg), "<svg")

	require.Equal(t, exitDone, d.run("simulate", "--trace", csv, "--rpo", "5s", "--compare", "fixed:2500ms", "--output", "json"), d.stderr.String())
	again := d.answer(t)["results"].([]any)[0].(map[string]any)
	require.Equal(t, first["cycles"], again["cycles"], "an exported trace is the same trace")
	require.Zero(t, d.dialed)
}

func TestSimulatingALinkThatIsTooSlowSaysSo(t *testing.T) {
	d := sit(t)
	require.Equal(t, exitOutside, d.run("simulate", "--trace", "log", "--length", "5m", "--link", "100kbit", "--compare", "fixed:15s"))
	require.Contains(t, d.stdout.String(), "adaptive")
}

func TestSimulatingTheFleetTakesTheLeastLinkOfEach(t *testing.T) {
	d := sit(t)
	require.NotEqual(t, exitFailed, d.run("simulate", "--trace", "mixed", "--length", "5m", "--link", "2x", "--compare", "fixed:15s", "--output", "jsonl"), d.stderr.String())
	require.Contains(t, d.stdout.String(), "minimum_link_bytes_per_s")
}

func TestSimulateRefusesWhatItCannotRead(t *testing.T) {
	d := sit(t)
	bad := filepath.Join(t.TempDir(), "bad.csv")
	require.NoError(t, os.WriteFile(bad, []byte("1,2\n"), 0o644))
	for _, c := range []struct {
		args []string
		code int
	}{
		{[]string{}, exitUsage},
		{[]string{"--trace", "nowhere"}, exitNotFound},
		{[]string{"--trace", bad}, exitUsage},
		{[]string{"--trace", "oltp", "--rpo", "1ms"}, exitUsage},
		{[]string{"--trace", "oltp", "--link", "fast"}, exitUsage},
		{[]string{"--trace", "oltp", "--link", "NaNmbit"}, exitUsage},
		{[]string{"--trace", "oltp", "--cross", "50-10"}, exitUsage},
		{[]string{"--trace", "oltp", "--compare", "magic", "--length", "1m"}, exitUsage},
		{[]string{"--trace", "oltp", "--length", "1s"}, exitUsage},
		{[]string{"--trace", "mixed", "--length", "1m", "--plot", "x.svg"}, exitUsage},
		{[]string{"--trace", "mixed", "--export", "x.csv"}, exitUsage},
		{[]string{"--trace", "oltp", "--policy", "/nowhere.yaml"}, exitNotFound},
	} {
		code := d.run(append([]string{"simulate"}, c.args...)...)
		if c.code == exitNotFound && code == exitUsage {
			continue // the policy's reader says it its way
		}
		require.Equal(t, c.code, code, "%v: %s", c.args, d.stderr.String())
		require.Empty(t, d.stdout.String())
	}
}

func TestSimulateRecordsAVMOfThisHostFirst(t *testing.T) {
	d := sit(t)
	var asked []string
	trace := &cli.Command{
		Name: "trace", Usage: "stands for the real one", ArgsUsage: "VM", Flags: []cli.Flag{&cli.StringFlag{Name: "out"}, &cli.DurationFlag{Name: "for"}, &cli.StringFlag{Name: "libvirt-socket"}},
		Action: func(c *cli.Context) error {
			asked = append(asked, c.Args().First(), c.Duration("for").String(), c.String("libvirt-socket"))
			s, _ := simulate.Find("oltp")
			return create(c.String("out"), func(w io.Writer) error {
				return simulate.WriteCSV(w, 120, 1, s.Generate(2*time.Minute, 1))
			})
		},
	}
	run := func(args ...string) int {
		d.stdout.Reset()
		d.stderr.Reset()
		return d.main(d.ctx, append([]string{"understudy"}, args...), append(processes(), trace)...)
	}
	require.Equal(t, 0, run("simulate", "--vm", "db1", "--for", "2m", "--rpo", "10s", "--link", "1gbit", "--compare", "fixed:5s", "--libvirt-socket", "/run/x"), d.stderr.String())
	require.Equal(t, []string{"db1", "2m0s", "/run/x"}, asked)
	require.Contains(t, d.stdout.String(), "adaptive")
	require.Equal(t, 64, run("simulate", "--vm", "db1", "--trace", "oltp"), "one of both")
	require.Equal(t, 64, run("simulate", "--vm", "db1", "--export", "x.csv.gz"))
}
