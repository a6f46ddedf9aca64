package cli

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// mover moves and tests VMs for a plane.
type mover struct {
	service
	asked  []contract.SwitchoverRequestIn
	tested []contract.TestRequestIn
	refuse error
}

func (m *mover) RequestSwitchover(_ context.Context, _ model.VMRef, in contract.SwitchoverRequestIn) (contract.FailoverRequestOut, error) {
	m.asked = append(m.asked, in)
	return contract.FailoverRequestOut{WorkflowID: takeover, Generation: 2}, m.refuse
}

func (m *mover) RequestTestFailover(_ context.Context, _ model.VMRef, in contract.TestRequestIn) (contract.TestRequestOut, error) {
	m.tested = append(m.tested, in)
	return contract.TestRequestOut{WorkflowID: "testfailover/x", Number: 4}, m.refuse
}

func moving(t *testing.T) (*desk, *mover) {
	d := sit(t)
	m := &mover{}
	d.plane.service = m
	failing(d, contract.OutcomeDone, contract.FailoverOut{
		Planned: true, Downtime: 800 * time.Millisecond, Evidence: &model.Evidence{Kind: model.EvidenceSurrendered, By: "host-a", Detail: "off"},
		Steps: []contract.FailoverStep{{Name: "pause", At: noon}, {Name: "start", At: noon.Add(time.Second)}},
	})
	return d, m
}

func TestASwitchoverIsFollowedAndItsDowntimeTold(t *testing.T) {
	d, m := moving(t)
	require.Equal(t, 0, d.run("switchover", "--yes", "--reason", "new kernel", "--max-pause", "30s", "db1"), d.stderr.String())
	require.Equal(t, []contract.SwitchoverRequestIn{{By: "kim@console", Reason: "new kernel", MaxPause: 30 * time.Second}}, m.asked)
	require.Contains(t, d.stdout.String(), "db1 runs on host-b")
	require.Contains(t, d.stdout.String(), "nothing was lost; nothing ran for 0.8 s")
	require.Equal(t, 0, d.run("switchover", "--yes", "-o", "json", "db1"))
	require.Equal(t, 0.8, d.answer(t)["downtime_s"])

	m.refuse = model.Fail(model.Conflict, nil, "a failover of db1 is running")
	require.Equal(t, 11, d.run("switchover", "--yes", "db1"))
	require.Equal(t, 64, d.run("switchover", "db1"), "nobody can answer")
	require.Equal(t, 64, d.run("switchover", "--yes", "--max-pause", "2h", "db1"))
}

func TestAFailbackWaitsForTheFirstHostAndAsksAboutWhatWasLost(t *testing.T) {
	d, m := moving(t)
	require.Equal(t, 11, d.run("failback", "--yes", "db1"))
	require.Contains(t, d.stderr.String(), "runs on host-a already")

	away := protected()
	away.State.Primary, away.State.Standby = "host-b", "host-a"
	away.State.Rescue = &contract.Rescue{Host: "host-a", Disks: []string{"/images/db1.qcow2"}, Unreplicated: 20480}
	waiting := away
	waiting.State.StandbyReady = false
	d.plane.find = func(string) (contract.DescribeOut, error) { return waiting, nil }
	looks, follow := 0, d.plane.describe
	d.plane.describe = func() (contract.DescribeOut, error) {
		if looks++; looks == 2 {
			return away, nil
		} else if looks > 2 {
			return follow()
		}
		return waiting, nil
	}
	require.Equal(t, 0, d.run("failback", "--yes", "db1"), d.stderr.String())
	require.True(t, m.asked[0].Failback && m.asked[0].KeepRescue)
	require.Contains(t, failbackQuestion(away), "20.0 KiB that were in no point")
	require.Contains(t, failbackQuestion(away), "/images/db1.qcow2")

	d.plane.describe = func() (contract.DescribeOut, error) { return waiting, nil }
	require.Equal(t, 11, d.run("failback", "--yes", "--timeout", "0s", "db1"))
	require.Contains(t, d.stderr.String(), "is not ready to take it back")
}

func TestATestFailoverSaysWhatAnsweredAndWhen(t *testing.T) {
	d, m := moving(t)
	after := protected()
	after.State.Tests = []contract.TestResult{{
		Number: 4, Host: "host-b", Point: model.PointRef{Generation: 1, Seq: 41}, Passed: true, RTO: 7 * time.Second, Answered: "agent", CleanedUp: true, StartedAt: noon,
	}}
	d.plane.describe = func() (contract.DescribeOut, error) { return after, nil }
	require.Equal(t, 0, d.run("test-failover", "--point", "41", "db1"), d.stderr.String())
	require.Equal(t, []contract.TestRequestIn{{By: "kim@console", Seq: 41}}, m.tested)
	require.Equal(t, "point 41 of db1 boots on host-b: agent after 7.0 s\n", d.stdout.String())

	after.State.Tests[0].Passed, after.State.Tests[0].Error, after.State.Tests[0].ErrorType = false, "kernel panic", string(model.NotRunning)
	require.Equal(t, 1, d.run("test-failover", "-o", "json", "db1"))
	require.Equal(t, false, d.answer(t)["passed"])
	require.Contains(t, d.stderr.String(), "kernel panic")
	require.Equal(t, 64, d.run("test-failover", "--point", "0", "db1"))

	d.plane.find = func(string) (contract.DescribeOut, error) { return after, nil }
	require.Equal(t, 0, d.run("status", "db1"))
	require.Contains(t, d.stdout.String(), "last test failover: point 41 on host-b, 0.0 s ago: FAILED: kernel panic")
}
