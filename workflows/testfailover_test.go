package workflows

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/model"
)

func TestATestFailoverIsMeasuredRecordedAndCleanedUpBesideReplication(t *testing.T) {
	w := newWorld(t).connect().connectTests()
	var asked, twice *answer[contract.TestRequestOut]
	var st contract.ProtectState
	w.hooks["test-probe"] = func(context.Context) { time.Sleep(20 * time.Millisecond) }
	w.at(61*time.Second, func() {
		asked = update(w, contract.UpdTestFailover, contract.TestRequestIn{By: "ada"})
		twice = update(w, contract.UpdTestFailover, contract.TestRequestIn{By: "bob"})
	})
	w.at(2*time.Minute, func() { st = w.state() })
	w.protect(protectIn(policy()), 2*time.Minute+time.Second)
	require.NoError(t, asked.Err)
	require.True(t, twice.Refused, "one at a time")
	require.Len(t, st.Tests, 1)
	r := st.Tests[0]
	require.True(t, r.Passed && r.CleanedUp, "%+v", r)
	require.Equal(t, "agent", r.Answered)
	require.Equal(t, hostB, r.Host)
	require.Equal(t, 1, r.Number)
	require.NotZero(t, r.Point.Seq)
	require.Nil(t, st.Testing)
	require.Zero(t, w.hosts[hostB].test)
	require.Equal(t, model.PhaseProtected, st.Phase)
	require.Zero(t, w.count("claim"))
	require.False(t, w.hosts[hostB].running)
}

func TestATestFailoverThatFailsAnywhereLeavesNothingAndRaisesAnAlert(t *testing.T) {
	for _, step := range []string{"points", "test-boot", "test-probe"} {
		for _, lost := range []bool{false, true} {
			w := newWorld(t).connect().connectTests()
			var st contract.ProtectState
			w.at(61*time.Second, func() {
				if lost {
					w.loseReply(step, 3)
				} else {
					w.failNext(step, refusal(model.NotRunning))
				}
				w.failNext("test-clean", timeout(2)) // and the first clean-up is not heard of
				update(w, contract.UpdTestFailover, contract.TestRequestIn{By: "ada"})
			})
			w.at(4*time.Minute, func() { st = w.state() })
			w.protect(protectIn(policy()), 4*time.Minute+time.Second)
			require.Len(t, st.Tests, 1, step)
			require.False(t, st.Tests[0].Passed, step)
			require.True(t, st.Tests[0].CleanedUp, step)
			require.NotEmpty(t, st.Tests[0].Error)
			require.Contains(t, alertNames(st), contract.AlertTestFailed)
			require.Zero(t, w.hosts[hostB].test, step)
		}
	}
}

func TestPointsAreBootedAsOftenAsThePolicySaysAndLaterWhenTheHostIsBusy(t *testing.T) {
	w := newWorld(t).connect().connectTests()
	p := policy()
	p.BootEvery = 20 * time.Minute
	w.failNext("test-boot", refusal(model.Conflict)) // the first time the host has no time
	w.idle = true
	var st contract.ProtectState
	w.at(65*time.Minute, func() { st = w.state() })
	w.protect(protectIn(p), 65*time.Minute+time.Second)
	require.Len(t, st.Tests, 3, "%+v", st.Tests)
	require.Empty(t, st.Alerts)
	for _, r := range st.Tests {
		require.True(t, r.Passed && r.Scheduled)
	}
	require.GreaterOrEqual(t, st.Tests[0].StartedAt.Sub(time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC)), testLater)
}

func TestAnRTOThatIsMissedIsAnAlert(t *testing.T) {
	w := newWorld(t).connect().connectTests()
	p := policy()
	p.RTO = time.Second
	w.slowBoot = 3 * time.Second
	var got contract.ProtectState
	w.at(61*time.Second, func() { update(w, contract.UpdTestFailover, contract.TestRequestIn{By: "ada"}) })
	w.at(2*time.Minute, func() { got = w.state() })
	w.protect(protectIn(p), 2*time.Minute+time.Second)
	require.Len(t, got.Tests, 1)
	require.GreaterOrEqual(t, got.Tests[0].RTO, 3*time.Second)
	require.Contains(t, alertNames(got), contract.AlertTestFailed)
}
