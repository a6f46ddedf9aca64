package cli

import (
	"errors"
	"flag"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/model"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := "testdata/" + name
	if *update {
		require.NoError(t, os.WriteFile(path, got, 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got))
}

// The JSON is a contract: fields are added, never renamed.
func TestStatusKeepsItsJSONContract(t *testing.T) {
	d := sit(t)
	d.plane.find = func(vm string) (contract.DescribeOut, error) {
		require.Equal(t, "db1", vm)
		return protected(), nil
	}
	require.Equal(t, 0, d.run("status", "--output", "json", "db1"))
	golden(t, "status.json", d.stdout.Bytes())
	require.Empty(t, d.stderr.String())

	after := protected()
	ended := noon.Add(-time.Minute)
	after.State.Alerts = []contract.Alert{{Name: contract.AlertHostSilent + "/host-a", Since: noon, Detail: "not heard", Try: "understudy hosts"}}
	after.State.Failover = &contract.FailoverBrief{
		WorkflowID: "failover/x/2", Generation: 2, From: "host-a", To: "host-b", Reason: "qemu died", StartedAt: ended.Add(-9 * time.Second), EndedAt: &ended,
		Outcome: contract.OutcomeDone, Result: &contract.FailoverOut{
			Evidence: &model.Evidence{Kind: model.EvidenceSurrendered, Generation: 2, By: "host-a", Detail: "the domain is off", At: ended},
			Point:    after.State.Recent[0],
			Steps:    []contract.FailoverStep{{Name: "claim", At: ended.Add(-9 * time.Second), Took: 40 * time.Millisecond, Detail: "generation 2"}},
		},
	}
	d.plane.find = func(string) (contract.DescribeOut, error) { return after, nil }
	require.Equal(t, 0, d.run("status", "--output", "json", "db1"))
	golden(t, "status-failover.json", d.stdout.Bytes())
	require.Equal(t, 0, d.run("status", "--output", "jsonl", "db1"))
	require.Equal(t, "protection", d.answer(t)["message_type"])
	require.Equal(t, 0, d.run("status", "db1"))
	golden(t, "status.txt", d.stdout.Bytes())
}

func TestExposureIsJudgedAtTheMomentOfAsking(t *testing.T) {
	for _, x := range []struct {
		name     string
		age      time.Duration // of the oldest write; 0 for none
		silent   bool
		phase    model.Phase
		want     model.RPOState
		exposure float64
		code     int
	}{
		{"idle", 0, false, model.PhaseProtected, model.RPOMet, 0, 0},
		{"fresh", 10 * time.Second, false, model.PhaseProtected, model.RPOMet, 10, 0},
		{"three quarters, as planned", 23 * time.Second, false, model.PhaseProtected, model.RPOMet, 23, 0},
		{"later than planned", 29 * time.Second, false, model.PhaseProtected, model.RPOAtRisk, 29, 0},
		{"three quarters, and failing", 23 * time.Second, false, model.PhaseDegraded, model.RPOAtRisk, 23, 0},
		{"over", 31 * time.Second, false, model.PhaseDegraded, model.RPOViolated, 31, 3},
		{"silent", 10 * time.Second, true, model.PhaseProtected, model.RPOUnknown, 10, 3},
		{"silent and idle when last seen", 0, true, model.PhaseProtected, model.RPOUnknown, 5, 3},
		{"late but within", 10 * time.Second, false, model.PhaseDegraded, model.RPOMet, 10, 0},
		{"failed", 10 * time.Second, false, model.PhaseFailed, model.RPOMet, 10, 3},
		{"the guest's clock is ahead", -time.Second, false, model.PhaseProtected, model.RPOMet, 0, 0},
	} {
		d := sit(t)
		p := protected()
		p.State.Phase, p.State.Unreplicated = x.phase, nil
		p.State.Observed = &model.Observation{At: noon.Add(-5 * time.Second)}
		if x.age != 0 {
			at := noon.Add(-x.age)
			p.State.Unreplicated = &at
		}
		p.State.HostSilent["host-a"] = x.silent
		if x.phase == model.PhaseDegraded {
			p.State.Failures = 1
		}
		d.plane.list = []contract.DescribeOut{p}
		require.Equal(t, x.code, d.run("status", "--output", "json"), x.name)
		v := viewOf(p, noon)
		require.Equal(t, x.want, v.RPO.State, x.name)
		require.InDelta(t, x.exposure, v.RPO.Exposure, 0.001, x.name)
		require.Len(t, d.answer(t)["protections"], 1, x.name)
		require.Empty(t, d.stderr.String(), "exit 3 is an answer, not an error")
	}
}

func TestOneProtectionThatCannotAnswerDoesNotHideTheOthers(t *testing.T) {
	d := sit(t)
	d.plane.list = []contract.DescribeOut{protected()}
	d.plane.listErr = model.Fail(model.Unreachable, errors.New("late"), "the workflow cannot answer now")
	require.Equal(t, 20, d.run("status"))
	require.Contains(t, d.stdout.String(), "db1")
	require.Contains(t, d.stderr.String(), "cannot answer now")
}

func TestNothingProtectedIsAnEmptyListNotNull(t *testing.T) {
	d := sit(t)
	require.Equal(t, 0, d.run("status", "--output", "json"))
	require.JSONEq(t, `{"message_type":"status","protections":[]}`, d.stdout.String())
	require.Equal(t, 0, d.run("hosts", "--output", "json"))
	require.JSONEq(t, `{"message_type":"hosts","hosts":[]}`, d.stdout.String())
}

func TestPointsAreListedAlsoWhileTheOldHostIsAway(t *testing.T) {
	d := sit(t)
	p := protected()
	p.State.Primary, p.State.Standby, p.State.Failover = "host-b", "host-a", &contract.FailoverBrief{Outcome: contract.OutcomeDone}
	d.plane.find = func(string) (contract.DescribeOut, error) { return p, nil }
	d.plane.points = func(h model.HostID) ([]contract.PointView, error) {
		if h == "host-a" {
			return nil, model.Fail(model.Unreachable, nil, "it is not heard").WithHost(h)
		}
		return []contract.PointView{{
			PointRef: model.PointRef{Generation: 1, Seq: 42}, Primary: "host-a", TakenAt: noon, VerifiedAt: noon, Consistency: model.CrashConsistent,
			Disks: []model.PointDisk{{Target: "vda", Mode: model.ModeResync, Reason: "unclean stop", DirtyBytes: 5, SentBytes: 3}}, BytesOnDisk: 4096,
		}}, nil
	}
	require.Equal(t, 0, d.run("points", "--output", "json", "db1"))
	golden(t, "points.json", d.stdout.Bytes())
	require.Contains(t, d.stderr.String(), "not complete")
}

func TestDoctorFailsWhenACheckFailsAndSaysWhatToDo(t *testing.T) {
	d := sit(t)
	d.plane.hosts = heard("host-a", "host-b")
	d.plane.hosts[1].Silent = true
	d.plane.inspect = func(model.HostID) (contract.InspectOut, error) {
		return contract.InspectOut{Checks: []model.Check{{Name: "qemu-img", Detail: "not found", Try: "apt-get install qemu-utils"}}}, nil
	}
	require.Equal(t, 1, d.run("doctor"))
	require.Contains(t, d.stdout.String(), "Try: apt-get install qemu-utils")
	require.Regexp(t, `host-b +agent +FAILED`, d.stdout.String())
	require.Regexp(t, `control +hosts +FAILED +2 known, 1 heard`, d.stdout.String())
	require.Equal(t, 10, d.run("doctor", "--host", "host-z"))
}
