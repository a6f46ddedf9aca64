package workflows

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enums "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// What the test environment cannot show is shown on a real server: a protection makes points, its VM crashes, roles are
// swapped, the other direction is protected, and every history made on the way replays without a difference.
func TestOnARealServerAStoryRunsAndItsHistoriesReplay(t *testing.T) {
	binary := os.Getenv("UNDERSTUDY_TEMPORAL_BINARY")
	if binary == "" {
		t.Skip("needs a server: make build, then UNDERSTUDY_TEMPORAL_BINARY=$PWD/build/understudy-temporal")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	w := bareWorld(t, time.Now)
	c := startServer(ctx, t, binary)
	queues := []string{contract.ControlQueue}
	for _, h := range []model.HostID{hostA, hostB} {
		queues = append(queues, contract.HostQueue(h), contract.BulkQueue(h))
	}
	for _, q := range queues {
		wk := worker.New(c, q, worker.Options{})
		w.serveOn(wk)
		contract.Watch.Register(wk, w.watchHost)
		if q == contract.ControlQueue {
			Register(wk)
		}
		require.NoError(t, wk.Start())
		t.Cleanup(wk.Stop)
	}
	for _, h := range []model.HostID{hostA, hostB} {
		_, err := c.SignalWithStartWorkflow(ctx, contract.HostWatchID(h), contract.SigAgentStarted.Name, model.HostFacts{Host: h, Instance: "1"},
			client.StartWorkflowOptions{TaskQueue: contract.ControlQueue}, contract.HostWatchName, contract.HostWatchIn{Host: h})
		require.NoError(t, err)
	}
	p := policy()
	p.RPO = 4 * time.Second
	run, err := c.ExecuteWorkflow(ctx, startOptions(), contract.ProtectVMName, protectIn(p))
	require.NoError(t, err)
	describe := func() contract.ProtectState {
		v, err := c.QueryWorkflow(ctx, run.GetID(), "", contract.QueryDescribe.Name)
		require.NoError(t, err)
		var out contract.DescribeOut
		require.NoError(t, v.Get(&out))
		return out.State
	}
	until := func(what string, ok func(contract.ProtectState) bool) contract.ProtectState {
		for {
			if st := describe(); ok(st) {
				return st
			} else if ctx.Err() != nil {
				require.FailNow(t, "never: "+what, "%+v", st)
			}
			time.Sleep(200 * time.Millisecond)
		}
	}
	until("three points", func(st contract.ProtectState) bool { return st.Totals.Cycles >= 3 })
	h, err := c.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{
		WorkflowID: run.GetID(), UpdateName: contract.UpdReplicateNow.Name, Args: []any{contract.ReplicateNowIn{By: "test"}}, WaitForStage: client.WorkflowUpdateStageCompleted,
	})
	require.NoError(t, err)
	var synced contract.ReplicateNowOut
	require.NoError(t, h.Get(ctx, &synced))
	require.NotZero(t, synced.Point.Seq)
	require.NoError(t, c.SignalWorkflow(ctx, run.GetID(), "", contract.SigForceCAN.Name, contract.None{}))
	time.Sleep(2 * time.Second)

	w.mu.Lock()
	w.hosts[hostA].running = false
	w.mu.Unlock()
	crashed := time.Now()
	require.NoError(t, c.SignalWorkflow(ctx, run.GetID(), "", contract.SigVMEvent.Name, contract.VMEventIn{Host: hostA, Event: model.Event{Kind: model.EventCrashed}}))
	st := until("the other direction", func(st contract.ProtectState) bool {
		return st.Primary == hostB && st.Phase == model.PhaseProtected && st.Committed.Generation == 2
	})
	t.Logf("protected again %s after the crash; failover %s", time.Since(crashed), st.Failover.EndedAt.Sub(st.Failover.StartedAt))
	require.Empty(t, st.Alerts)

	// Now the new primary loses power: only its missing heartbeats tell.
	lost := time.Now()
	w.mu.Lock()
	w.hosts[hostB].off, w.hosts[hostB].running = true, false
	w.mu.Unlock()
	until("the suspicion", func(st contract.ProtectState) bool { return st.HostSilent[string(hostB)] })
	suspected := time.Since(lost)
	require.Less(t, suspected, 6*time.Second)
	until("the way back", func(st contract.ProtectState) bool { return st.Primary == hostA && st.Generation == 3 })
	t.Logf("suspected after %s, taken over after %s", suspected, time.Since(lost))
	w.mu.Lock()
	w.hosts[hostB].off = false
	w.mu.Unlock()
	st = until("protection by the returned host", func(st contract.ProtectState) bool {
		return st.Phase == model.PhaseProtected && st.Committed.Generation == 3
	})
	require.Equal(t, hostB, st.Standby)
	require.NoError(t, c.CancelWorkflow(ctx, run.GetID(), ""))
	_ = c.GetWorkflow(ctx, run.GetID(), "").Get(ctx, nil)

	r := worker.NewWorkflowReplayer()
	for name, wf := range map[string]any{contract.ProtectVMName: ProtectVM, contract.FailoverVMName: FailoverVM, contract.HostWatchName: HostWatch} {
		r.RegisterWorkflowWithOptions(wf, workflow.RegisterOptions{Name: name})
	}
	for _, e := range [][2]string{{run.GetID(), run.GetRunID()}, {run.GetID(), ""}, {contract.FailoverID(theVM.UUID, 2), ""}, {contract.FailoverID(theVM.UUID, 3), ""}, {contract.HostWatchID(hostA), ""}, {contract.HostWatchID(hostB), ""}} {
		var hist historypb.History
		for it := c.GetWorkflowHistory(ctx, e[0], e[1], false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); it.HasNext(); {
			ev, err := it.Next()
			require.NoError(t, err)
			hist.Events = append(hist.Events, ev)
		}
		require.NoError(t, r.ReplayWorkflowHistory(silentLog{}, &hist), "%s", e[0])
		t.Logf("%s: %d events", e[0], len(hist.Events))
	}
}

// watchHost beats like an agent.
func (w *world) watchHost(ctx context.Context, in contract.WatchIn) (contract.WatchOut, error) {
	end := time.After(in.For)
	for {
		w.mu.Lock()
		off := w.hosts[in.Host].off
		w.mu.Unlock()
		if off { // a dead host answers nothing, not even that it is dead
			select {
			case <-ctx.Done():
			case <-activity.GetWorkerStopChannel(ctx):
			case <-time.After(time.Minute):
			}
			return contract.WatchOut{}, ctx.Err()
		}
		activity.RecordHeartbeat(ctx)
		select {
		case <-end:
			return contract.WatchOut{Facts: model.HostFacts{Host: in.Host, Instance: "1"}}, nil
		case <-ctx.Done():
			return contract.WatchOut{}, ctx.Err()
		case <-activity.GetWorkerStopChannel(ctx):
			return contract.WatchOut{}, nil
		case <-time.After(time.Second):
		}
	}
}

func startServer(ctx context.Context, t *testing.T, binary string) client.Client {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	require.NoError(t, l.Close())
	args := []string{"--db-filename", filepath.Join(t.TempDir(), "temporal.db")}
	for name, kind := range map[string]string{
		contract.AttrVM: "Keyword", contract.AttrPrimary: "Keyword", contract.AttrStandby: "Keyword", contract.AttrPhase: "Keyword", contract.AttrGeneration: "Int",
	} {
		args = append(args, "--search-attribute", fmt.Sprintf("%s=%s", name, kind))
	}
	s, err := testsuite.StartDevServer(ctx, testsuite.DevServerOptions{
		ExistingPath: binary, ClientOptions: &client.Options{HostPort: address, Namespace: contract.Namespace, Logger: silentLog{}},
		LogLevel: "error", ExtraArgs: args, Stdout: io.Discard, Stderr: os.Stderr,
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Stop() })
	t.Cleanup(s.Client().Close)
	return s.Client()
}
