package cli

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/model"
)

func TestAPlanIsCheckedAndAppliedAsAWhole(t *testing.T) {
	d := sit(t)
	file := filepath.Join(t.TempDir(), "plan.yaml")
	require.NoError(t, os.WriteFile(file, []byte("version: 1\ngroups:\n- {name: data, vms: [db1]}\n- {name: apps, after: [data], vms: [app1, later1]}\n"), 0o600))
	require.Equal(t, 0, d.run("plan", "check", file), d.stderr.String())
	require.Contains(t, d.stdout.String(), "wave 2: app1, later1")
	require.Zero(t, d.dialed, "it asks nobody")

	app := model.VMRef{Name: "app1", UUID: "22222222-0f5b-4c7a-9d2e-1b6f5a4c3d2e"}
	old := model.VMRef{Name: "old1", UUID: "33333333-0f5b-4c7a-9d2e-1b6f5a4c3d2e"}
	d.plane.list = []contract.DescribeOut{
		{Spec: contract.ProtectSpec{VM: db1}}, {Spec: contract.ProtectSpec{VM: app}},
		{Spec: contract.ProtectSpec{VM: old}, State: contract.ProtectState{Start: &model.StartRule{Group: "gone"}}},
	}
	set := map[string]*model.StartRule{}
	d.plane.setStart = func(vm model.VMRef, in contract.SetStartIn) error { set[vm.Name] = in.Rule; return nil }
	require.Equal(t, 0, d.run("plan", "apply", "--output", "json", file), d.stderr.String())
	require.Equal(t, []string{db1.UUID}, set["app1"].After)
	require.Equal(t, "data", set["db1"].Group)
	require.Contains(t, set, "old1")
	require.Nil(t, set["old1"], "the file does not name it")
	require.Equal(t, []any{"later1"}, d.answer(t)["unknown"])

	require.NoError(t, os.WriteFile(file, []byte("version: 1\ngroups: [{name: a, vms: [x], after: [y]}]"), 0o600))
	require.Equal(t, 64, d.run("plan", "apply", file))
	require.Contains(t, d.stderr.String(), "neither a group nor a VM")
}
