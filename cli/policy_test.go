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
	file := policyFile(t, "version: 1\nrpo: 1s\nrto: 500ms\n")
	require.Equal(t, 64, d.run("policy", "check", file))
	require.Equal(t, "understudy: the policy file "+file+" is refused\n"+file+":2:6: an RPO is between 2s and 24h, not 1s\n"+
		file+":3:6: an RTO is between 1s and 24h, not 500ms\n", d.stderr.String())
	require.Equal(t, 64, d.run("policy", "check", "-o", "json", file))
	require.Contains(t, d.stderr.String(), `"problems":[{"line":2,"column":6,"reason":"an RPO is between 2s and 24h, not 1s"}`)
	require.Empty(t, d.stdout.String())
	for _, args := range [][]string{{"policy"}, {"policy", "chek"}, {"policy", "check"}, {"policy", "check", file + "x"}, {"policy", "check", t.TempDir()}, {"policy", "check", "--nope"}, {"policy", "schema", "x"}} {
		require.Equal(t, 64, d.run(args...), args)
		require.Empty(t, d.stdout.String())
	}
}

func TestPolicyCheckWarnsOfWhatMayBeImpossible(t *testing.T) {
	d := sit(t)
	file := policyFile(t, "version: 1\nrto: 10s\nbudgets: {stall: 50ms, cpu: 30%}\nverification: boot\n")
	require.Equal(t, 0, d.run("policy", "check", file))
	require.Contains(t, d.stderr.String(), "warning: rto 10s: without a fence device")
	require.Contains(t, d.stdout.String(), "RTO 10.0 s, a point booted each 24 h 0 min, stall at most 50 ms, about 30 % of a core")
	require.Equal(t, 0, d.run("policy", "check", "-o", "json", file))
	require.NotEmpty(t, d.answer(t)["warnings"])
	require.Equal(t, 10.0, d.answer(t)["policy"].(map[string]any)["rto_s"])
}

func TestFlagsSetBudgetsAndTargets(t *testing.T) {
	d := sit(t)
	spec := found(d)
	require.Equal(t, 0, d.run("protect", "--standby", "host-b", "--rto", "5m", "--boot-every", "24h", "--salvage", "0", "--max-stall", "80ms", "--cpu", "25%", "db1"), d.stderr.String())
	p := spec.Policy
	require.Equal(t, []any{5 * time.Minute, 24 * time.Hour, time.Duration(0), 80 * time.Millisecond, 0.25}, []any{p.RTO, p.BootEvery, p.Salvage, p.MaxStall, p.CPUShare})
	for _, bad := range [][]string{{"--rto", "1ms"}, {"--boot-every", "1m"}, {"--max-stall", "1ms"}, {"--cpu", "25"}, {"--cpu", "0.1%"}, {"--cpu", "x%"}, {"--salvage", "1h"}} {
		require.Equal(t, 64, d.run(append(append([]string{"protect", "--standby", "host-b"}, bad...), "db1")...), bad)
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
