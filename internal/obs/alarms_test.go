package obs

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/decide/alarm"
	"understudy/internal/model"
)

func named(all []model.Alarm) map[string]model.Alarm {
	out := map[string]model.Alarm{}
	for _, a := range all {
		out[a.Name] = a
	}
	return out
}

// The state of the golden metrics, at which everything is wrong.
func TestWhatMattersIsToldWithWhyAndTheNextCommand(t *testing.T) {
	s, now := everything(), start.Add(2*time.Hour)
	s.Hosts[0].Silent, s.Hosts[0].LastHeard, s.Hosts[0].Protections = true, start, []string{"u"}
	s.Hosts[0].Facts.Notify, s.Hosts[0].Facts.StoreFree = &model.NotifyFacts{}, 1<<28
	st := &s.Protections[0].State
	st.Phase, st.Failed = model.PhaseFailed, "the failover came to nothing"
	st.Alerts = append(st.Alerts,
		contract.Alert{Name: contract.AlertFenceUnconfirmed, Detail: "no fence", Try: "understudy failover --confirm-primary-down db1"},
		contract.Alert{Name: contract.AlertUnwatched + "/host-b"}, contract.Alert{Name: contract.AlertStallBudget}, contract.Alert{Name: contract.AlertRPOAtRisk})
	got := named(Alarms(s, now))
	require.ElementsMatch(t, []string{
		"HostSilent", "DiskLow", "CertificateExpiring", "VMDown", "FenceUnconfirmed", "Unwatched", "RPOViolated", "Unverified", "ProtectionFailed", "FailoverEnded", "UndoStuck",
	}, slices.Collect(maps.Keys(got)), "and neither a budget nor a risk")
	for _, a := range got {
		require.NotEmpty(t, a.What, a.Key)
		require.NotEmpty(t, a.Try, a.Key)
		require.True(t, a.VM != "" || a.Host != "", a.Key)
	}
	require.Equal(t, "understudy failover --confirm-primary-down db1", got["FenceUnconfirmed"].Try)
	require.EqualValues(t, "host-b", got["Unwatched"].Host)
	require.Equal(t, 2, got["RPOViolated"].Level)
	require.Equal(t, 3, got["CertificateExpiring"].Level, "it ended")
	require.True(t, got["FailoverEnded"].Happened)
	require.Contains(t, got["UndoStuck"].Why, "hand back")
}

func TestAnAgentThatTellsByItselfIsNotRepeated(t *testing.T) {
	s, now := everything(), start.Add(time.Hour)
	s.Hosts[0].Facts.Notify = nil
	st := &s.Protections[0].State
	st.Primary = "host-a"
	f := &s.Hosts[0].Facts
	f.StoreFree = 1 << 20
	for _, name := range []string{"RPOViolated", "DiskLow", "CertificateExpiring"} {
		require.Contains(t, named(Alarms(s, now)), name)
	}
	f.Notify = &model.NotifyFacts{Receivers: 1}
	for _, name := range []string{"RPOViolated", "DiskLow", "CertificateExpiring"} {
		require.NotContains(t, named(Alarms(s, now)), name)
	}
	s.Hosts[0].Silent = true
	require.Contains(t, named(Alarms(s, now)), "DiskLow", "nobody hears it any more")
}

func TestAFailoverIsToldWhenItBeginsAndWhenItEnds(t *testing.T) {
	f := &contract.FailoverBrief{WorkflowID: "failover/u/2", From: "host-a", To: "host-b", Reason: "host-a is dead", StartedAt: start}
	began := failoverAlarms("db1", f)
	require.Len(t, began, 1)
	require.Equal(t, "a failover of db1 from host-a to host-b began", began[0].What)
	end := start.Add(time.Minute)
	f.EndedAt, f.Outcome, f.Error = &end, contract.OutcomeRolledBack, "host-a was heard again"
	ended := failoverAlarms("db1", f)
	require.Equal(t, "the failover of db1 from host-a to host-b is rolled back", ended[0].What)
	require.Equal(t, "host-a is dead: host-a was heard again", ended[0].Why)
	require.Equal(t, end, ended[0].Since)
}

func TestADiskIsToldWhenItIsNearlyFullAndAgainWhenItIsFull(t *testing.T) {
	_, low := DiskAlarm(ScopeAgent, "host-a", "it", 11, 100)
	require.False(t, low)
	a, low := DiskAlarm(ScopeAgent, "host-a", "it", 9, 100)
	require.True(t, low)
	require.Equal(t, 1, a.Level)
	a, _ = DiskAlarm(ScopeAgent, "host-a", "it", 1, 100)
	require.Equal(t, 2, a.Level)
	_, low = DiskAlarm(ScopeAgent, "host-a", "it", 0, 0)
	require.False(t, low, "unknown")
}

// Whoever gets a message finds its name and what it means.
func TestEachNameStandsInTheTableOfNotifications(t *testing.T) {
	b, err := os.ReadFile("../../docs/OPERATIONS.md")
	require.NoError(t, err)
	_, section, found := strings.Cut(string(b), "\n## Notifications\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	for _, name := range append(slices.Collect(maps.Keys(told)), "RPOViolated", "Unverified", "FailoverBegan", "FailoverEnded", "ProtectionFailed", "UndoStuck", "HostSilent",
		"LeaseTrouble", "VMDownUntold", "ControlPlaneLost", "ControlPlaneDown", "DiskLow", "CertificateExpiring") {
		require.Contains(t, section, name)
	}
}

// One protection is stuck and the list of all comes with an error: what the others and the hosts say is told, and the stuck
// one's alarms do not look over.
func TestAProtectionThatIsStuckHidesNobodysAlarms(t *testing.T) {
	p := &played{err: model.Fail(model.Unreachable, nil, "protect/other does not answer")}
	c := NewCollector(p, func() time.Time { return start })
	s := c.State()
	require.False(t, s.Up)
	ledger := alarm.Ledger{}
	ledger.Begin(start)
	stuck := model.Alarm{Key: scopeOf(model.VMRef{UUID: "other"}) + "x", Name: "X"}
	_, _ = ledger.Observe(ScopePlane, []model.Alarm{stuck}, start, time.Hour)
	var names []string
	for _, at := range []time.Time{start, start.Add(time.Hour)} {
		for _, heard := range HeardAlarms(s, at) {
			due, _ := ledger.Observe(heard.Scope, heard.Alarms, at, 24*time.Hour)
			for _, n := range due {
				names = append(names, n.Name)
			}
		}
	}
	require.ElementsMatch(t, []string{contract.AlertVMDown, contract.AlertHostSilent}, names)
	require.Equal(t, model.AlarmFiring, ledger.Entries[stuck.Key].Last)
}
