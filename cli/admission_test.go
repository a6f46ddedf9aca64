package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/model"
)

func TestProtectTakesItsDemandFromATrace(t *testing.T) {
	d := sit(t)
	spec := found(d)
	file := filepath.Join(t.TempDir(), "oltp.csv")
	require.Equal(t, 0, d.run("simulate", "--trace", "oltp", "--length", "10m", "--export", file, "--link", "1gbit", "--compare", "fixed:15s"), d.stderr.String())
	require.Equal(t, 0, d.run("protect", "--standby", "host-b", "--trace", file, "--force", "db1"), d.stderr.String())
	require.True(t, spec.Admission.Force)
	require.Greater(t, spec.Admission.Demand, int64(1<<20))
	require.Less(t, spec.Admission.Demand, int64(1<<30))

	require.Equal(t, 10, d.run("protect", "--standby", "host-b", "--trace", file+".not", "db1"))
	require.NoError(t, os.WriteFile(file, []byte("nonsense"), 0o600))
	require.Equal(t, 64, d.run("protect", "--standby", "host-b", "--trace", file, "db1"))
}

func TestProtectShowsWhatTheLinkWasAsked(t *testing.T) {
	d := sit(t)
	found(d)
	d.plane.ensure = func(contract.ProtectSpec) (contract.DescribeOut, error) {
		s := seeding()
		s.State.Admission = &contract.Admission{Verdict: "warn", Budget: 1000, Before: 0.5, After: 0.85, Others: []string{"a"}}
		return s, nil
	}
	require.Equal(t, 0, d.run("protect", "--standby", "host-b", "-o", "json", "db1"))
	require.Equal(t, 0.85, d.answer(t)["admission"].(map[string]any)["after"])
}

func TestHostsShowTheUseOfTheLinkAndWhoIsLate(t *testing.T) {
	d := sit(t)
	d.plane.hosts = heard("host-a")
	d.plane.hosts[0].Facts.Load = &model.HostLoad{LinkBudget: 12_500_000, LinkUse: 0.42}
	d.plane.hosts[0].Facts.Late = []string{"db1", "web"}
	require.Equal(t, 0, d.run("hosts"))
	require.Contains(t, d.stdout.String(), "42 % of")
	require.Contains(t, d.stdout.String(), "db1, web")
	require.Equal(t, 0, d.run("hosts", "-o", "json"))
	h := d.answer(t)["hosts"].([]any)[0].(map[string]any)
	require.Equal(t, 0.42, h["link_use"])
	require.True(t, strings.Contains(d.stdout.String(), `"late"`))
}
