package activities

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"

	"understudy/internal/contract"
	"understudy/internal/fence"
	"understudy/internal/lease"
	"understudy/internal/model"
)

var db1 = model.VMRef{Name: "db1", UUID: "11111111-2222-3333-4444-555555555555"}

func controlEnv(t *testing.T, fenceScript string) (*testsuite.TestActivityEnvironment, string) {
	t.Helper()
	dir := t.TempDir()
	calls := filepath.Join(dir, "calls")
	path := filepath.Join(dir, "fence")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\necho \"$@\" >> "+calls+"\n"+fenceScript+"\n"), 0o700))
	records, err := lease.OpenRecords(filepath.Join(dir, "records"), time.Now)
	require.NoError(t, err)
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestActivityEnvironment()
	power, err := fence.Open("", fence.Command{Argv: []string{path}}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	(&Control{Records: records, Power: power, Now: time.Now}).Register(env)
	return env, calls
}

func kind(t *testing.T, err error) string {
	t.Helper()
	var app *temporal.ApplicationError
	require.True(t, errors.As(err, &app), "%v", err)
	return app.Type()
}

func TestFencingNeedsAnOpenTakeoverFromThatHost(t *testing.T) {
	env, calls := controlEnv(t, "echo off")
	g := func(n model.Generation) contract.Fence { return contract.Fence{VM: db1, Generation: n} }
	_, err := env.ExecuteActivity(contract.BeginRecord.Name, contract.PermitIn{Fence: g(1), Host: "host-a"})
	require.NoError(t, err)

	_, err = env.ExecuteActivity(contract.FencePower.Name, contract.FenceIn{Fence: g(2), Host: "host-a", Attempt: "try"})
	require.Equal(t, "StaleGeneration", kind(t, err), "nobody claimed yet")

	_, err = env.ExecuteActivity(contract.Claim.Name, contract.ClaimIn{Fence: g(2), Target: "host-b", Attempt: "try", Expect: 1})
	require.NoError(t, err)
	_, err = env.ExecuteActivity(contract.FencePower.Name, contract.FenceIn{Fence: g(2), Host: "host-b", Attempt: "try"})
	require.Equal(t, "StaleGeneration", kind(t, err), "the target itself")
	require.NoFileExists(t, calls, "no power command may have run so far")

	v, err := env.ExecuteActivity(contract.FencePower.Name, contract.FenceIn{Fence: g(2), Host: "host-a", Attempt: "try"})
	require.NoError(t, err)
	var out contract.EvidenceOut
	require.NoError(t, v.Get(&out))
	require.Equal(t, model.EvidenceFenced, out.Evidence.Kind)
	asked, err := os.ReadFile(calls)
	require.NoError(t, err)
	require.Equal(t, "off host-a\nstatus host-a\n", string(asked))
}
