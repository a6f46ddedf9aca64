package cli

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/model"
	"understudy/internal/policy"
)

func policyFile(t *testing.T, text string) string {
	path := filepath.Join(t.TempDir(), "db.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

const office = `version: 1
tier: bronze
retention: {hourly: 24}
calendar:
  time-zone: UTC
  windows:
    - {name: office, days: [mon, tue], from: 08:00, to: 18:00, rpo: 10s, bandwidth: 1MiB}
`

func TestPolicyCheckSaysWhatAFileMeansWithoutAskingAnybody(t *testing.T) {
	d := sit(t)
	file := policyFile(t, office)
	require.Equal(t, 0, d.run("policy", "check", file), d.stderr.String())
	require.Equal(t, file+`: ok: RPO 5 min 0 s, bronze, failover auto, keep 4 points, 24 hourly, compression auto
  office (mon tue, 08:00 to 18:00 UTC): RPO 10.0 s, bronze, at most 1.0 MiB/s
`, d.stdout.String())
	require.Equal(t, 0, d.run("policy", "check", "--output", "json", file))
	got := d.answer(t)
	require.Equal(t, "policy", got["message_type"])
	require.EqualValues(t, 300, got["policy"].(map[string]any)["rpo_s"])
	require.EqualValues(t, 24, got["policy"].(map[string]any)["hourly"])
	require.Equal(t, 0, d.run("policy", "schema"))
	require.Equal(t, string(policy.Schema()), d.stdout.String())
	require.Zero(t, d.dialed)
}

func TestPolicyCheckRefusesWithLines(t *testing.T) {
	d := sit(t)
	file := policyFile(t, "version: 1\nrpo: 1s\nrto: 5s\n")
	require.Equal(t, 64, d.run("policy", "check", file))
	require.Equal(t, "understudy: the policy file "+file+" is refused\n"+file+":2:6: an RPO is between 2s and 24h, not 1s\n"+
		file+":3:1: rto: the time to recover is measured by each failover but no target is kept or watched by this version\n", d.stderr.String())
	require.Equal(t, 64, d.run("policy", "check", "-o", "json", file))
	require.Contains(t, d.stderr.String(), `"problems":[{"line":2,"column":6,"reason":"an RPO is between 2s and 24h, not 1s"}`)
	require.Empty(t, d.stdout.String())
	for _, args := range [][]string{{"policy"}, {"policy", "chek"}, {"policy", "check"}, {"policy", "check", file + "x"}, {"policy", "check", t.TempDir()}, {"policy", "check", "--nope"}, {"policy", "schema", "x"}} {
		require.Equal(t, 64, d.run(args...), args)
		require.Empty(t, d.stdout.String())
	}
}

func TestFlagsOverrideThePolicyFile(t *testing.T) {
	d := sit(t)
	spec := found(d)
	file := policyFile(t, office)
	require.Equal(t, 0, d.run("protect", "--standby", "host-b", "--policy", file, "--rpo", "45s", "--tier", "gold", "db1"), d.stderr.String())
	require.Equal(t, 45*time.Second, spec.Policy.RPO)
	require.Equal(t, model.Gold, spec.Policy.Tier)
	require.Equal(t, 4, spec.Policy.KeepLast, "of the file's tier")
	require.Len(t, spec.Policy.Calendar.Windows, 1)

	d.dialed = 0
	require.Equal(t, 64, d.run("protect", "--standby", "host-b", "--policy", file, "--rpo", "2h", "db1"), "24 hourly points cannot be")
	require.Contains(t, d.stderr.String(), "does not make a point each hour")
	require.Equal(t, 64, d.run("set-policy", "--policy", policyFile(t, "version: 1\nrpo: x\n"), "db1"))
	require.Zero(t, d.dialed)
}

func TestSetPolicyWithAFileReplacesAll(t *testing.T) {
	d := sit(t)
	d.plane.find = func(string) (contract.DescribeOut, error) {
		out := protected()
		out.State.Policy.Freeze, out.State.Policy.KeepLast = true, 99
		return out, nil
	}
	d.plane.setPolicy = func(p model.Policy) (contract.DescribeOut, error) {
		want := model.DefaultPolicy()
		want.Compression = "best"
		require.Equal(t, want, p)
		return protected(), nil
	}
	require.Equal(t, 0, d.run("set-policy", "--policy", policyFile(t, "version: 1\n"), "--compression", "best", "db1"), d.stderr.String())
}
