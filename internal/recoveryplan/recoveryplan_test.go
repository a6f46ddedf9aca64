package recoveryplan

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const shop = `
version: 1
parallel: 6
wait: 5m
groups:
  - name: databases
    vms: [db1, db2]
  - name: apps
    after: [databases]
    delay: 10s
    vms: [app1, app2]
  - name: web
    after: [app1]
    vms: [web1]
`

func TestAPlanBecomesAPlaceForEachVM(t *testing.T) {
	p, err := Parse([]byte(shop))
	require.NoError(t, err)
	require.Equal(t, [][]string{{"db1", "db2"}, {"app1", "app2"}, {"web1"}}, p.Waves())
	app := p.VMs[2]
	require.Equal(t, []string{"db1", "db2"}, app.After)
	r := p.Rule(app, map[string]string{"db1": "u1", "db2": "u2", "app1": "u3"})
	require.Equal(t, []string{"u1", "u2"}, r.After)
	require.Equal(t, 10*time.Second, r.Delay)
	require.Equal(t, 5*time.Minute, r.Wait)
	require.Equal(t, 6, r.Parallel)
	require.Equal(t, 2, r.Order)
}

func TestWhatCouldNeverStartIsRefused(t *testing.T) {
	for _, c := range []struct{ yaml, says string }{
		{"version: 2", "version must be 1"},
		{"version: 1\ngroup: []", "not found"},
		{"version: 1\nparallel: 0", "parallel must be"},
		{"version: 1\nwait: 3h", "wait must be"},
		{"version: 1\ngroups: [{vms: [a]}]", "has no name"},
		{"version: 1\ngroups: [{name: g}]", "has no vms"},
		{"version: 1\ngroups: [{name: g, vms: [a]}, {name: g, vms: [b]}]", "two groups"},
		{"version: 1\ngroups: [{name: g, vms: [a]}, {name: h, vms: [a]}]", "a is in g and in h"},
		{"version: 1\ngroups: [{name: g, vms: [a], after: [x]}]", "neither a group nor a VM"},
		{"version: 1\ngroups: [{name: g, vms: [a], after: [g]}]", "follows itself"},
		{"version: 1\ngroups: [{name: g, vms: [a], after: [a]}]", "which is in it"},
		{"version: 1\ngroups: [{name: g, vms: [a], after: [h]}, {name: h, vms: [b], after: [i]}, {name: i, vms: [c], after: [g]}]", "waits for itself"},
		{"version: 1\n---\nversion: 1", "one document"},
	} {
		_, err := Parse([]byte(c.yaml))
		require.ErrorContains(t, err, c.says, c.yaml)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(shop))
	f.Fuzz(func(_ *testing.T, data []byte) {
		if p, err := Parse(data); err == nil {
			p.Waves()
		}
	})
}
