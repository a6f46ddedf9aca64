package workflows

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/testsuite"

	"understudy/internal/contract"
	"understudy/internal/decide/plan"
	"understudy/internal/model"
)

// morning is the hour after a host died: failovers that ask the recovery, and take two seconds to start a VM.
type morning struct {
	env     *testsuite.TestWorkflowEnvironment
	mu      sync.Mutex // signals to others are sent beside each other, so those of one moment have no order
	granted []string
	at      map[string]time.Duration
	busy    int
	most    int
	fails   map[string]bool
	silent  map[string]bool // never says that the start is over
	begun   time.Time
	told    map[string][]string
}

func newMorning(t *testing.T) *morning {
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(silentLog{})
	m := &morning{env: suite.NewTestWorkflowEnvironment(), at: map[string]time.Duration{}, fails: map[string]bool{}, silent: map[string]bool{}, told: map[string][]string{}}
	m.begun = time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC)
	m.env.SetStartTime(m.begun)
	m.env.SetTestTimeout(time.Minute)
	Register(m.env)
	m.env.OnSignalExternalWorkflow(mock.Anything, mock.Anything, mock.Anything, contract.SigStartAnswer.Name, mock.Anything).Return(
		func(_, id, _, _ string, arg any) error {
			m.mu.Lock()
			defer m.mu.Unlock()
			a := arg.(contract.StartAnswer)
			m.told[id] = append(m.told[id], a.Why)
			if a.Granted {
				m.started(id)
			}
			return nil
		})
	return m
}

func (m *morning) started(name string) {
	m.granted = append(m.granted, name)
	m.at[name] = m.env.Now().Sub(m.begun)
	m.busy++
	m.most = max(m.most, m.busy)
	if m.silent[name] {
		return
	}
	m.env.RegisterDelayedCallback(func() {
		m.mu.Lock()
		m.busy--
		m.mu.Unlock()
		m.env.SignalWorkflow(contract.SigStartEnded.Name, contract.StartEnded{VM: model.VMRef{Name: name, UUID: name}, OK: !m.fails[name]})
	}, 2*time.Second)
}

func (m *morning) asks(at time.Duration, name string, tier model.Tier, rule model.StartRule) {
	m.env.RegisterDelayedCallback(func() {
		m.env.SignalWorkflow(contract.SigStartAsk.Name, contract.StartAsk{
			VM: model.VMRef{Name: name, UUID: name}, Target: hostB, Tier: tier, Rule: rule, ReplyTo: name,
		})
	}, at)
}

func (m *morning) run(t *testing.T) {
	m.env.ExecuteWorkflow(Recovery, contract.RecoveryIn{})
	require.True(t, m.env.IsWorkflowCompleted(), "it ends when nobody asks any more")
	require.NoError(t, m.env.GetWorkflowError())
}

func TestTwentyGuestsOfADeadHostAreStartedByTier(t *testing.T) {
	m := newMorning(t)
	tiers := []model.Tier{model.Bronze, model.Silver, model.Gold}
	for i := range 20 {
		m.asks(time.Duration(i)*10*time.Millisecond, fmt.Sprintf("%s-%02d", tiers[i%3], i), tiers[i%3], model.StartRule{})
	}
	m.run(t)
	require.Len(t, m.granted, 20)
	require.Equal(t, model.DefaultStartParallel, m.most, "no more at once than the host takes")
	first, last := map[string]time.Duration{}, map[string]time.Duration{}
	for name, at := range m.at {
		tier, _, _ := strings.Cut(name, "-")
		if f, ok := first[tier]; !ok || at < f {
			first[tier] = at
		}
		last[tier] = max(last[tier], at)
	}
	require.LessOrEqual(t, last["gold"], first["silver"], "%v", m.at)
	require.LessOrEqual(t, last["silver"], first["bronze"], "%v", m.at)
	require.Less(t, last["bronze"], 15*time.Second, "serial would take 40 s")
}

func TestAnApplicationIsStartedWhenItsDatabaseRuns(t *testing.T) {
	m := newMorning(t)
	m.asks(0, "app", model.Gold, model.StartRule{After: []string{"db", "elsewhere"}, Delay: 3 * time.Second, Wait: time.Minute})
	m.asks(500*time.Millisecond, "db", model.Bronze, model.StartRule{})
	m.run(t)
	require.Equal(t, []string{"db", "app"}, m.granted)
	require.GreaterOrEqual(t, m.at["app"]-m.at["db"], 5*time.Second)
	require.Contains(t, m.told["app"], "waits until db runs")
}

func TestWhatDoesNotComeUpHoldsTheOthersForABoundedTime(t *testing.T) {
	m := newMorning(t)
	m.fails["db"], m.silent["lost"] = true, true
	m.asks(0, "db", model.Gold, model.StartRule{})
	m.asks(0, "app", model.Gold, model.StartRule{After: []string{"db"}, Wait: time.Minute})
	m.asks(0, "lost", model.Silver, model.StartRule{Parallel: 1})
	m.asks(0, "next", model.Bronze, model.StartRule{Parallel: 1})
	m.run(t)
	require.InDelta(t, 60, m.at["app"].Seconds(), 2)
	require.Contains(t, m.granted, "next", "a slot that is never given back ends by itself")
}

func TestAFailoverThatIsAloneAsksNobody(t *testing.T) {
	p := &protection{st: &contract.ProtectState{Policy: policy()}}
	require.Nil(t, p.place(false))
	require.NotNil(t, p.place(true), "its host is silent: others died with it")
	p.st.Start = &model.StartRule{After: []string{"db"}}
	require.NotNil(t, p.place(false))
}

// turn plays a failover that must ask a real recovery, whose words pass only where deliver says so.
func turn(t *testing.T, prepare func(w *world), deliver func(contract.StartAnswer) bool) contract.FailoverOut {
	w := takeover(t)
	in := failoverIn()
	in.Place = &contract.StartPlace{Tier: model.Gold, Rule: model.StartRule{After: []string{"db"}, Wait: 30 * time.Second}}
	w.env.OnSignalExternalWorkflow(mock.Anything, contract.FailoverID(theVM.UUID, in.Generation), mock.Anything, contract.SigStartAnswer.Name, mock.Anything).Return(
		func(_, _, _, _ string, arg any) error {
			if a := arg.(contract.StartAnswer); deliver(a) {
				signal(w, contract.SigStartAnswer, a)
			}
			return nil
		}).Maybe()
	prepare(w)
	w.env.OnSignalExternalWorkflow(mock.Anything, in.Parent, mock.Anything, contract.SigChildFinished.Name, mock.Anything).Return(nil)
	// Under an id of its own, so that the recovery's words pass through this test.
	w.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: "the failover", TaskQueue: contract.ControlQueue})
	w.env.ExecuteWorkflow(FailoverVM, in)
	require.NoError(t, w.env.GetWorkflowError())
	var out contract.FailoverOut
	require.NoError(t, w.env.GetWorkflowResult(&out))
	require.Equal(t, contract.OutcomeDone, out.Outcome)
	require.Contains(t, stepNames(out), "turn")
	return out
}

func took(out contract.FailoverOut, step string) time.Duration {
	for _, s := range out.Steps {
		if s.Name == step {
			return s.Took
		}
	}
	return -1
}

func TestAFailoverWaitsForItsTurnAndNotForALostCoordinator(t *testing.T) {
	nothing := func(*world) {}
	all := func(contract.StartAnswer) bool { return true }
	out := turn(t, nothing, all)
	require.InDelta(t, plan.Unheard.Seconds(), took(out, "turn").Seconds(), 1, "%v", out.Steps)

	out = turn(t, nothing, func(contract.StartAnswer) bool { return false })
	require.InDelta(t, coordinatorLimit.Seconds(), took(out, "turn").Seconds(), 1, "it never answers")

	out = turn(t, nothing, func(a contract.StartAnswer) bool { return !a.Granted })
	require.InDelta(t, (30*time.Second + admissionSlack).Seconds(), took(out, "turn").Seconds(), 1, "it was lost after its first word")

	out = turn(t, func(w *world) { w.env.OnWorkflow(contract.RecoveryName, mock.Anything, mock.Anything).Return(nil) }, all)
	require.Less(t, took(out, "turn"), time.Second, "it cannot be reached")
}
