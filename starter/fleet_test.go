package starter_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/model"
	"understudy/starter"
)

const fleet = 200

// status asks each protection; the target and what was measured stand in docs/PERFORMANCE.md. Tests run beside much else, so that
// the limit here only catches what grows out of hand.
func TestTwoHundredProtectionsAnswerAtOnce(t *testing.T) {
	binary := os.Getenv("UNDERSTUDY_TEMPORAL_BINARY")
	if binary == "" {
		t.Skip("needs a server: make build, then UNDERSTUDY_TEMPORAL_BINARY=$PWD/build/understudy-temporal")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	require.NoError(t, l.Close())
	s, err := testsuite.StartDevServer(ctx, testsuite.DevServerOptions{
		ExistingPath: binary, ClientOptions: &client.Options{HostPort: address, Namespace: contract.Namespace},
		LogLevel: "error", ExtraArgs: []string{"--db-filename", filepath.Join(t.TempDir(), "temporal.db")}, Stdout: io.Discard, Stderr: os.Stderr,
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Stop() })
	c := s.Client()
	t.Cleanup(c.Close)

	wk := worker.New(c, contract.ControlQueue, worker.Options{})
	wk.RegisterWorkflowWithOptions(func(ctx workflow.Context, in contract.ProtectIn) error {
		out := contract.DescribeOut{Spec: in.Spec, State: contract.ProtectState{Phase: model.PhaseProtected, Policy: in.Spec.Policy, Alerts: []contract.Alert{}}}
		for i := range 16 { // as much as a protection of some age says
			out.State.Recent = append(out.State.Recent, contract.PointSummary{PointRef: model.PointRef{Generation: 1, Seq: model.Seq(i)}, Modes: "delta"})
		}
		if err := workflow.SetQueryHandler(ctx, contract.QueryDescribe.Name, func() (contract.DescribeOut, error) { return out, nil }); err != nil {
			return err
		}
		return workflow.Await(ctx, func() bool { return false })
	}, workflow.RegisterOptions{Name: contract.ProtectVMName})
	require.NoError(t, wk.Start())
	t.Cleanup(wk.Stop)
	for i := range fleet {
		vm := model.VMRef{Name: fmt.Sprintf("vm%d", i), UUID: fmt.Sprintf("11111111-2222-3333-4444-%012d", i)}
		_, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: contract.ProtectID(vm.UUID), TaskQueue: contract.ControlQueue},
			contract.ProtectVMName, contract.ProtectIn{Spec: contract.ProtectSpec{VM: vm, Primary: "host-a", Standby: "host-b", Policy: model.DefaultPolicy()}})
		require.NoError(t, err)
	}
	asker := starter.New(c)
	require.Eventually(t, func() bool {
		all, err := asker.List(ctx)
		return err == nil && len(all) == fleet
	}, 2*time.Minute, time.Second, "the visibility store has them all")
	var took []time.Duration
	for range 9 {
		began := time.Now()
		all, err := asker.List(ctx)
		require.NoError(t, err)
		require.Len(t, all, fleet)
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	t.Logf("%d protections: best %s, median %s, worst %s", fleet, took[0], took[len(took)/2], took[len(took)-1])
	require.Less(t, took[0], 3*time.Second)
}
