package workflows

import (
	"bytes"
	"compress/gzip"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enums "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/temporalproto"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"

	"understudy/internal/contract"
	"understudy/internal/model"
)

var record = flag.Bool("record", false, "record the histories of testdata/replay anew (needs UNDERSTUDY_TEMPORAL_BINARY)")

// recorder runs the real workflows on a real server, with the hosts of the other tests behind the activities' real names.
type recorder struct {
	*world
	ctx context.Context
	c   client.Client
	run client.WorkflowRun
}

// Each story is written as it ends; -run 'TestRecordHistories/lease' makes one of them again.
func TestRecordHistories(t *testing.T) {
	binary := os.Getenv("UNDERSTUDY_TEMPORAL_BINARY")
	if !*record || binary == "" {
		t.Skip("records with -record and UNDERSTUDY_TEMPORAL_BINARY=$PWD/build/understudy-temporal only: see CONTRIBUTING.md")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	c := startServer(ctx, t, binary)
	for _, s := range []struct {
		name string
		tell func(*recorder)
	}{
		{"life", recordLife}, {"crash", recordCrash}, {"fence", recordFence}, {"lease", recordLease}, {"rollback", recordRollback},
		{"salvage", recordSalvage}, {"switchover", recordSwitchover}, {"test", recordTest}, {"gear", recordGear}, {"inplace", recordInPlace},
		{"cancel", recordCancel}, {"recover", recordRecover}, {"recovery", recordRecovery},
	} {
		t.Run(s.name, func(t *testing.T) { s.tell(record1(ctx, t, c)) })
	}
}

func record1(ctx context.Context, t *testing.T, c client.Client) *recorder {
	r := &recorder{world: bareWorld(t, time.Now), ctx: ctx, c: c}
	r.guards = 0
	queues := []string{contract.ControlQueue}
	for _, h := range []model.HostID{hostA, hostB} {
		queues = append(queues, contract.HostQueue(h), contract.BulkQueue(h))
	}
	for _, q := range queues {
		wk := worker.New(c, q, worker.Options{Identity: "recorder", BuildID: "recorded"}) //nolint:staticcheck // the same in each recording; deployments are not what is recorded
		r.serveOn(wk)
		contract.Watch.Register(wk, r.watchHost)
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
	t.Cleanup(func() { // the next story has hosts of its own under the same names
		for _, id := range []string{contract.ProtectID(theVM.UUID), contract.FailoverID(theVM.UUID, 2), contract.FailoverID(theVM.UUID, 3), contract.HostWatchID(hostA), contract.HostWatchID(hostB), contract.RecoveryID} {
			_ = c.TerminateWorkflow(context.WithoutCancel(ctx), id, "", "the story has ended")
		}
	})
	return r
}

func (r *recorder) begin(guards int) {
	p := policy()
	p.RPO = 4 * time.Second
	r.beginWith(p, guards)
}

func (r *recorder) beginWith(p model.Policy, guards int) {
	r.guards = guards
	run, err := r.c.ExecuteWorkflow(r.ctx, startOptions(), contract.ProtectVMName, protectIn(p))
	require.NoError(r.t, err)
	r.run = run
	r.until("two points", func(st contract.ProtectState) bool { return st.Totals.Cycles >= 2 })
}

func (r *recorder) until(what string, ok func(contract.ProtectState) bool) contract.ProtectState {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.ctx, 3*time.Minute)
	defer cancel()
	var st contract.ProtectState
	for {
		if v, err := r.c.QueryWorkflow(ctx, r.run.GetID(), "", contract.QueryDescribe.Name); err == nil {
			var out contract.DescribeOut
			require.NoError(r.t, v.Get(&out))
			if st = out.State; ok(st) {
				return st
			}
		}
		if ctx.Err() != nil {
			require.FailNow(r.t, "never: "+what, "%+v", st)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func ask[In, Out any](r *recorder, u contract.Update[In, Out], in In) Out {
	r.t.Helper()
	var out Out
	h, err := r.c.UpdateWorkflow(r.ctx, client.UpdateWorkflowOptions{
		WorkflowID: r.run.GetID(), UpdateName: u.Name, Args: []any{in}, WaitForStage: client.WorkflowUpdateStageCompleted,
	})
	require.NoError(r.t, err)
	require.NoError(r.t, h.Get(r.ctx, &out))
	return out
}

func (r *recorder) crash() {
	r.mu.Lock()
	r.hosts[hostA].running = false
	r.mu.Unlock()
	require.NoError(r.t, r.c.SignalWorkflow(r.ctx, r.run.GetID(), "", contract.SigVMEvent.Name,
		contract.VMEventIn{Host: hostA, Event: model.Event{VM: theVM, Kind: model.EventCrashed, Detail: "killed"}}))
}

// power of the primary; whoever takes its place is asked of the state, because on a busy machine a first try may be taken back.
func (r *recorder) power(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hosts[hostA].off = !on
	if !on {
		r.hosts[hostA].running = false
	}
}

// person is how a client names itself: by its process, user and host.
var person = regexp.MustCompile(`"identity": *"\d+@[^"]*"`)

// keep writes a history.
func (r *recorder) keep(name, workflowID, runID string) {
	r.t.Helper()
	var hist historypb.History
	for it := r.c.GetWorkflowHistory(r.ctx, workflowID, runID, false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); it.HasNext(); {
		ev, err := it.Next()
		require.NoError(r.t, err)
		hist.Events = append(hist.Events, ev)
	}
	// A history that is still running may end within a workflow task; what it decided before is whole.
	text, err := temporalproto.CustomJSONMarshalOptions{}.Marshal(&hist)
	require.NoError(r.t, err)
	text = person.ReplaceAll(text, []byte(`"identity":"recorder"`))
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	require.NoError(r.t, err)
	_, err = z.Write(text)
	require.NoError(r.t, err)
	require.NoError(r.t, z.Close())
	require.NoError(r.t, os.MkdirAll(histories, 0o755))
	require.NoError(r.t, os.WriteFile(filepath.Join(histories, name+".json.gz"), b.Bytes(), 0o644))
	r.t.Logf("%s: %d events, %d bytes", name, len(hist.Events), b.Len())
}

func recordLife(r *recorder) {
	r.begin(0)
	p := policy()
	p.RPO = 6 * time.Second
	ask(r, contract.UpdSetPolicy, contract.SetPolicyIn{Policy: p})
	ask(r, contract.UpdPause, contract.PauseIn{By: "ada", Reason: "maintenance"})
	ask(r, contract.UpdResume, contract.ResumeIn{By: "ada"})
	ask(r, contract.UpdReplicateNow, contract.ReplicateNowIn{By: "ada"})
	n := r.until("any state", func(contract.ProtectState) bool { return true }).Totals.Cycles
	require.NoError(r.t, r.c.SignalWorkflow(r.ctx, r.run.GetID(), "", contract.SigForceCAN.Name, contract.None{}))
	r.until("a point of the next run", func(st contract.ProtectState) bool { return st.Totals.Cycles > n+1 })
	ask(r, contract.UpdUnprotect, contract.UnprotectIn{By: "ada"})
	_ = r.c.GetWorkflow(r.ctx, r.run.GetID(), "").Get(r.ctx, nil)
	r.keep("protect-until-continued", r.run.GetID(), r.run.GetRunID())
	r.keep("protect-continued", r.run.GetID(), "")
}

func recordCrash(r *recorder) {
	r.begin(0)
	r.crash()
	r.until("the other direction", func(st contract.ProtectState) bool {
		return st.Primary == hostB && st.Phase == model.PhaseProtected && st.Committed.Generation == st.Generation
	})
	r.keep("failover-by-surrender", contract.FailoverID(theVM.UUID, 2), "")
	r.keep("protect-through-failover", r.run.GetID(), "")
}

func recordSalvage(r *recorder) {
	r.readable = true
	r.begin(0)
	r.crash()
	st := r.until("the takeover", func(st contract.ProtectState) bool { return st.Primary == hostB && st.Phase != model.PhaseFailingOver })
	require.NotNil(r.t, st.Failover.Result.Salvaged)
	_ = r.c.GetWorkflow(r.ctx, st.Failover.WorkflowID, "").Get(r.ctx, nil)
	r.keep("failover-with-salvage", st.Failover.WorkflowID, "")
}

func recordFence(r *recorder) {
	r.begin(0)
	r.power(false)
	st := r.until("the takeover", func(st contract.ProtectState) bool { return st.Primary == hostB && st.Phase != model.PhaseFailingOver })
	require.Equal(r.t, model.EvidenceFenced, st.Failover.Result.Evidence.Kind)
	r.power(true)
	r.until("protection by the returned host", func(st contract.ProtectState) bool {
		return st.Phase == model.PhaseProtected && st.Committed.Generation == st.Generation
	})
	r.keep("failover-by-fence", st.Failover.WorkflowID, "")
	r.keep("protect-through-host-loss", r.run.GetID(), "")
	r.keep("hostwatch-of-the-lost", contract.HostWatchID(hostA), "")
}

func recordLease(r *recorder) {
	r.begin(2)
	r.until("the lease", func(st contract.ProtectState) bool { return st.Lease != nil && st.Lease.Mode == model.ModeLeased })
	r.mu.Lock()
	r.fence = false
	r.mu.Unlock()
	r.power(false)
	st := r.until("the takeover", func(st contract.ProtectState) bool { return st.Primary == hostB && st.Phase != model.PhaseFailingOver })
	require.Equal(r.t, model.EvidenceLeaseExpired, st.Failover.Result.Evidence.Kind)
	r.keep("failover-by-lease", st.Failover.WorkflowID, "")
}

func recordRollback(r *recorder) {
	r.begin(0)
	r.mu.Lock()
	for range 3 {
		r.failNext("materialize", refusal(model.Refused))
	}
	r.mu.Unlock()
	r.crash()
	st := r.until("the way back", func(st contract.ProtectState) bool { return st.Failover != nil && st.Failover.Outcome != "" })
	require.Equal(r.t, contract.OutcomeRolledBack, st.Failover.Outcome)
	_ = r.c.GetWorkflow(r.ctx, st.Failover.WorkflowID, "").Get(r.ctx, nil) // it tells its end before it ends
	r.keep("failover-rolled-back", st.Failover.WorkflowID, "")
}

func recordSwitchover(r *recorder) {
	r.begin(0)
	ask(r, contract.UpdSwitchover, contract.SwitchoverRequestIn{By: "ada", Reason: "maintenance"})
	st := r.until("its end", func(st contract.ProtectState) bool { return st.Failover != nil && st.Failover.Outcome != "" })
	require.Equal(r.t, contract.OutcomeDone, st.Failover.Outcome, "%+v", st.Failover)
	r.until("the other direction", func(st contract.ProtectState) bool {
		return st.Primary == hostB && st.Phase == model.PhaseProtected && st.Committed.Generation == st.Generation
	})
	r.keep("switchover", st.Failover.WorkflowID, "")
	r.keep("protect-through-a-switchover", r.run.GetID(), "")
}

func recordTest(r *recorder) {
	r.begin(0)
	out := ask(r, contract.UpdTestFailover, contract.TestRequestIn{By: "ada"})
	r.until("its result", func(st contract.ProtectState) bool { return len(st.Tests) == 1 })
	r.keep("test-failover", out.WorkflowID, "")
}

// recordGear is a guest that writes all the time under a short target. What it costs is counted in TestTheEventsOfACycleInTheRecordedHistory.
func recordGear(r *recorder) {
	p := policy()
	p.RPO, r.pace = 5*time.Second, 5*time.Millisecond
	r.beginWith(p, 0)
	r.until("cycles in the merged gear", func(st contract.ProtectState) bool { return st.Totals.Cycles >= 12 })
	r.keep("protect-in-the-merged-gear", r.run.GetID(), "")
}

func recordInPlace(r *recorder) {
	p := policy()
	p.RPO, p.RecoverInPlace = 4*time.Second, 1
	r.beginWith(p, 0)
	r.crash()
	n := r.until("the restart", func(st contract.ProtectState) bool { return st.Totals.Restarts == 1 }).Totals.Cycles
	r.until("a point after it", func(st contract.ProtectState) bool { return st.Totals.Cycles > n+1 })
	r.keep("protect-restarted-in-place", r.run.GetID(), "")
}

// recordCancel cancels a failover when the old copy has given up, from inside the step that follows.
func recordCancel(r *recorder) {
	r.begin(0)
	var once sync.Once
	r.mu.Lock()
	r.hooks["materialize"] = func(context.Context) {
		once.Do(func() {
			require.NoError(r.t, r.c.CancelWorkflow(r.ctx, contract.FailoverID(theVM.UUID, 2), ""))
			time.Sleep(2 * time.Second)
		})
	}
	r.mu.Unlock()
	r.crash()
	st := r.until("the way back", func(st contract.ProtectState) bool { return st.Failover != nil && st.Failover.Outcome != "" })
	require.Equal(r.t, contract.OutcomeRolledBack, st.Failover.Outcome)
	_ = r.c.GetWorkflow(r.ctx, st.Failover.WorkflowID, "").Get(r.ctx, nil)
	r.keep("failover-cancelled", st.Failover.WorkflowID, "")
}

func recordRecover(r *recorder) {
	p := policy()
	p.RPO = 4 * time.Second
	_, err := r.records.Begin(r.ctx, theVM, 3, hostA)
	require.NoError(r.t, err)
	require.NoError(r.t, r.records.Keep(r.ctx, theVM.UUID, hostB, p))
	r.mu.Lock()
	at := r.now().Add(-time.Minute)
	r.hosts[hostB].points = append(r.hosts[hostB].points, contract.PointView{PointRef: model.PointRef{Generation: 3, Seq: 9}, TakenAt: at, VerifiedAt: at, Primary: hostA})
	r.mu.Unlock()
	run, err := r.c.ExecuteWorkflow(r.ctx, client.StartWorkflowOptions{ID: contract.RecoverID, TaskQueue: contract.ControlQueue}, contract.RecoverName)
	require.NoError(r.t, err)
	require.NoError(r.t, run.Get(r.ctx, nil))
	r.run = r.c.GetWorkflow(r.ctx, contract.ProtectID(theVM.UUID), "")
	r.until("two points more", func(st contract.ProtectState) bool { return st.Totals.Cycles >= 2 && st.Phase == model.PhaseProtected })
	r.keep("recover", contract.RecoverID, "")
	r.keep("protect-recovered", r.run.GetID(), "")
}

// recordRecovery is four failovers that ask for one host at once; those who ask are made up, so nobody hears the answers.
func recordRecovery(r *recorder) {
	for i, tier := range []model.Tier{model.Bronze, model.Gold, model.Silver, model.Gold} {
		vm := model.VMRef{Name: fmt.Sprintf("vm%d", i), UUID: fmt.Sprintf("%d1111111-2222-3333-4444-555555555555", i)}
		ask := contract.StartAsk{VM: vm, Target: hostB, Tier: tier, At: r.now(), ReplyTo: contract.FailoverID(vm.UUID, 2)}
		_, err := r.c.SignalWithStartWorkflow(r.ctx, contract.RecoveryID, contract.SigStartAsk.Name, ask,
			client.StartWorkflowOptions{TaskQueue: contract.ControlQueue}, contract.RecoveryName, contract.RecoveryIn{})
		require.NoError(r.t, err)
	}
	ended := map[string]bool{}
	require.Eventually(r.t, func() bool {
		v, err := r.c.QueryWorkflow(r.ctx, contract.RecoveryID, "", contract.QueryRecovery.Name)
		if err != nil {
			return false
		}
		var now contract.RecoveryIn
		require.NoError(r.t, v.Get(&now))
		for _, s := range now.Starting {
			if !ended[s.VM.UUID] {
				ended[s.VM.UUID] = true
				require.NoError(r.t, r.c.SignalWorkflow(r.ctx, contract.RecoveryID, "", contract.SigStartEnded.Name, contract.StartEnded{VM: s.VM, OK: true, At: r.now()}))
			}
		}
		return len(now.Ended) == 4
	}, 2*time.Minute, 200*time.Millisecond)
	r.keep("recovery-in-order", contract.RecoveryID, "")
}
