package workflows

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// watched is a host whose agent answers or does not, and a protection that listens.
type watched struct {
	env    *testsuite.TestWorkflowEnvironment
	mu     sync.Mutex
	up     bool
	told   []string
	rounds int
}

func newWatched(t *testing.T) *watched {
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(silentLog{})
	h := &watched{env: suite.NewTestWorkflowEnvironment(), up: true}
	h.env.SetTestTimeout(time.Minute)
	Register(h.env)
	contract.Watch.Register(h.env, func(ctx context.Context, in contract.WatchIn) (contract.WatchOut, error) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.rounds++
		if !h.up {
			return contract.WatchOut{}, timeout(enums.TIMEOUT_TYPE_SCHEDULE_TO_START)
		}
		token := activity.GetInfo(ctx).TaskToken
		h.env.RegisterDelayedCallback(func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			out, err := contract.WatchOut{Facts: model.HostFacts{Instance: "p1"}}, error(nil)
			if !h.up {
				err = timeout(enums.TIMEOUT_TYPE_HEARTBEAT)
			}
			_ = h.env.CompleteActivity(token, out, err)
		}, in.For)
		return contract.WatchOut{}, activity.ErrResultPending
	})
	contract.Inspect.Register(h.env, func(context.Context, contract.InspectIn) (contract.InspectOut, error) {
		return contract.InspectOut{Facts: model.HostFacts{Host: hostA}}, nil
	})
	contract.Points.Register(h.env, func(_ context.Context, in contract.PointsIn) (contract.PointsOut, error) {
		return contract.PointsOut{Points: []contract.PointView{{PointRef: model.PointRef{Generation: 1, Seq: 7}}}}, nil
	})
	for _, s := range []contract.Signal[contract.HostSignalIn]{contract.SigHostSuspect, contract.SigHostRecovered} {
		h.env.OnSignalExternalWorkflow(mock.Anything, contract.ProtectID(theVM.UUID), mock.Anything, s.Name, mock.Anything).Return(
			func(_, _, _, name string, _ any) error {
				h.mu.Lock()
				defer h.mu.Unlock()
				h.told = append(h.told, name)
				return nil
			}).Maybe()
	}
	return h
}

func (h *watched) set(up bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.up = up
}

func (h *watched) watch(end time.Duration) {
	h.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: contract.HostWatchID(hostA), TaskQueue: contract.ControlQueue})
	h.env.RegisterDelayedCallback(h.env.CancelWorkflow, end)
	h.env.ExecuteWorkflow(HostWatch, contract.HostWatchIn{Host: hostA})
}

func (h *watched) state(t *testing.T) contract.HostWatchState {
	v, err := h.env.QueryWorkflow(contract.QueryHost.Name)
	require.NoError(t, err)
	var st contract.HostWatchState
	require.NoError(t, v.Get(&st))
	return st
}

func (h *watched) attach() {
	h.env.SignalWorkflow(contract.SigAttach.Name, contract.AttachIn{VMUUID: theVM.UUID})
}

func TestAHostFallsSilentAndIsHeardAgain(t *testing.T) {
	h := newWatched(t)
	h.env.RegisterDelayedCallback(h.attach, time.Second)
	h.env.RegisterDelayedCallback(func() { h.set(false) }, 100*time.Second)
	var silent, back contract.HostWatchState
	h.env.RegisterDelayedCallback(func() { silent = h.state(t) }, 5*time.Minute)
	h.env.RegisterDelayedCallback(func() { h.set(true) }, 5*time.Minute)
	h.env.RegisterDelayedCallback(func() { back = h.state(t) }, 6*time.Minute)
	h.watch(10 * time.Minute)
	require.True(t, silent.Silent)
	require.Equal(t, []string{theVM.UUID}, silent.Protections)
	require.False(t, back.Silent)
	require.Equal(t, 1, back.FalseAlarms, "the same process went on living")
	require.Equal(t, []string{"host-suspect", "host-recovered"}, h.told)
	require.Less(t, h.rounds, 50, "a silent host is probed slower and slower")
}

func TestAnAgentThatStartsEndsTheSilenceAtOnce(t *testing.T) {
	h := newWatched(t)
	h.env.RegisterDelayedCallback(h.attach, time.Second)
	h.env.RegisterDelayedCallback(func() { h.set(false) }, 30*time.Second)
	var back contract.HostWatchState
	h.env.RegisterDelayedCallback(func() {
		h.set(true)
		h.env.SignalWorkflow(contract.SigAgentStarted.Name, model.HostFacts{Host: hostA, Instance: "p2", BootID: "b2"})
	}, 2*time.Minute)
	h.env.RegisterDelayedCallback(func() { back = h.state(t) }, 2*time.Minute+100*time.Millisecond)
	h.watch(3 * time.Minute)
	require.False(t, back.Silent)
	require.Equal(t, "p2", back.Facts.Instance)
	require.Zero(t, back.FalseAlarms, "it was really gone")
	require.Equal(t, []string{"host-suspect", "host-recovered"}, h.told)
}

func TestWhoAttachesToASilentHostIsToldAtOnce(t *testing.T) {
	h := newWatched(t)
	h.up = false
	h.env.RegisterDelayedCallback(h.attach, time.Minute)
	h.watch(2 * time.Minute)
	require.Equal(t, []string{"host-suspect"}, h.told)
}

func TestQuestionsToAHostAreAnsweredOrRefusedClearly(t *testing.T) {
	h := newWatched(t)
	w := &world{t: t, env: h.env}
	var heard *answer[contract.PointsOut]
	var silent *answer[contract.InspectOut]
	h.env.RegisterDelayedCallback(func() { heard = update(w, contract.UpdPoints, contract.PointsIn{VM: theVM}) }, 10*time.Second)
	h.env.RegisterDelayedCallback(func() { h.set(false) }, 20*time.Second)
	h.env.RegisterDelayedCallback(func() { silent = update(w, contract.UpdInspect, contract.InspectIn{}) }, 2*time.Minute)
	h.watch(3 * time.Minute)
	require.NoError(t, heard.Err)
	require.Equal(t, model.Seq(7), heard.Out.Points[0].Seq)
	require.Equal(t, "Unreachable", contract.ErrorType(silent.Err))
	require.Contains(t, silent.Err.Error(), "host-a is not heard")
}

func TestAWatchContinuesAsNewWithWhatItKnows(t *testing.T) {
	h := newWatched(t)
	h.env.RegisterDelayedCallback(h.attach, time.Second)
	h.env.RegisterDelayedCallback(func() { h.env.SetContinueAsNewSuggested(true) }, 90*time.Second)
	h.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: contract.HostWatchID(hostA)})
	h.env.ExecuteWorkflow(HostWatch, contract.HostWatchIn{Host: hostA})
	var can *workflow.ContinueAsNewError
	require.ErrorAs(t, h.env.GetWorkflowError(), &can)
	var in contract.HostWatchIn
	require.NoError(t, converter.GetDefaultDataConverter().FromPayloads(can.Input, &in))
	require.Equal(t, []string{theVM.UUID}, in.State.Protections)
	require.Equal(t, "p1", in.State.Facts.Instance)
}
