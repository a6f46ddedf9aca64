package cli

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/model"
)

func TestADryRunSaysWhatWouldBeDoneAndAsksNobodyToDoIt(t *testing.T) {
	d := sit(t)
	p := protected()
	p.State.Lease = &contract.LeaseState{Mode: model.ModeLeased, Terms: model.DefaultTerms(2)}
	p.State.HostSilent = map[string]bool{"host-a": true}
	d.plane.find = func(string) (contract.DescribeOut, error) { return p, nil }
	d.plane.points = func(h model.HostID) ([]contract.PointView, error) {
		require.EqualValues(t, "host-b", h)
		return []contract.PointView{
			{PointRef: model.PointRef{Generation: 1, Seq: 41}, TakenAt: noon.Add(-40 * time.Second)},
			{PointRef: model.PointRef{Generation: 1, Seq: 42}, TakenAt: noon.Add(-10 * time.Second)},
		}, nil
	}
	d.plane.inspect = func(model.HostID) (contract.InspectOut, error) {
		return contract.InspectOut{Checks: []model.Check{{Name: "fence level 1", OK: false, Detail: "ipmi does not answer"}}}, nil
	}
	require.Equal(t, 0, d.run("failover", "--dry-run", "--output", "json", "db1"), d.stderr.String())
	v := d.answer(t)
	require.Equal(t, "failover_plan", v["message_type"])
	require.EqualValues(t, 42, v["point"])
	require.EqualValues(t, 10, v["age_s"])
	usable := map[string]any{}
	for _, r := range v["rungs"].([]any) {
		usable[r.(map[string]any)["name"].(string)] = r.(map[string]any)["usable"]
	}
	require.Equal(t, map[string]any{"surrender": false, "fence": false, "lease": true, "person": true}, usable)

	require.Equal(t, 0, d.run("failover", "--dry-run", "--point", "41", "db1"))
	require.Contains(t, d.stdout.String(), "from point 41, 40.0 s old")
	require.Contains(t, d.stdout.String(), "the standby waits 22s")
	require.Equal(t, 10, d.run("failover", "--dry-run", "--point", "7", "db1"))
}

func TestAHeldFailoverEndsTheCommandWithTheTwoWaysOn(t *testing.T) {
	d := sit(t)
	asked := failing(d, contract.OutcomeDone, contract.FailoverOut{Steps: []contract.FailoverStep{{Name: "boot", At: noon}}})
	until := noon.Add(10 * time.Minute)
	d.plane.timeline.HeldUntil = &until
	require.Equal(t, 0, d.run("failover", "--yes", "--hold", "db1"), d.stderr.String())
	require.True(t, asked.Hold)
	require.Contains(t, d.stdout.String(), "understudy commit db1")
	require.Contains(t, d.stdout.String(), "understudy rollback db1")
	require.Equal(t, 0, d.run("failover", "--yes", "--hold", "--output", "json", "db1"))
	require.Equal(t, "2026-03-01T12:10:00Z", d.answer(t)["held_until"])
}

func TestStatusSaysThatAFailoverIsHeldAndWhatCanBeDone(t *testing.T) {
	d, p := sit(t), protected()
	until := noon.Add(7 * time.Minute)
	p.State.Phase = model.PhaseFailingOver
	p.State.Failover = &contract.FailoverBrief{WorkflowID: "failover/x/2", Generation: 2, From: "host-a", To: "host-b", StartedAt: noon, Hold: true, HeldUntil: &until}
	d.plane.find = func(string) (contract.DescribeOut, error) { return p, nil }
	d.plane.list = []contract.DescribeOut{p}
	for _, args := range [][]string{{"status"}, {"status", "db1"}} {
		require.Equal(t, 3, d.run(args...))
		require.Contains(t, d.stdout.String(), "db1: it runs on host-b on probation. Keep it: understudy commit db1. Take it back: understudy rollback db1. It commits by itself in 7 min")
	}
	require.Contains(t, d.stdout.String(), "host-a to host-b: held")
	require.Equal(t, 3, d.run("status", "--output", "jsonl", "db1"))
	require.Equal(t, "2026-03-01T12:07:00Z", d.answer(t)["failover"].(map[string]any)["held_until"])
}

func TestCommitAndRollbackSayWhatAPersonDecided(t *testing.T) {
	d := sit(t)
	d.plane.find = func(string) (contract.DescribeOut, error) { return protected(), nil }
	var told contract.FailoverOrder
	end := contract.FailoverBrief{From: "host-a", To: "host-b", Generation: 2, Outcome: contract.OutcomeDone, StartedAt: noon}
	d.plane.conclude = func(in contract.FailoverOrder) (contract.FailoverBrief, error) { told = in; return end, nil }
	require.Equal(t, 0, d.run("commit", "db1"), d.stderr.String())
	require.Equal(t, contract.FailoverOrder{Kind: contract.OrderCommit, By: "kim@console", Reason: "decided by a person"}, told)
	end.Outcome, end.Result = contract.OutcomeRolledBack, &contract.FailoverOut{HandedBackGeneration: 3}
	require.Equal(t, 0, d.run("rollback", "--yes", "db1"))
	require.Equal(t, contract.OrderRollback, told.Kind)
	require.Contains(t, d.stdout.String(), "host-a may run it, under generation 3")
	require.Equal(t, 1, d.run("commit", "db1"), "it was rolled back all the same")
	require.Equal(t, 0, d.run("failover", "--yes", "--abandon", "db1"))
	require.Equal(t, contract.OrderAbandon, told.Kind)
}

func TestContradictoryFlagsOfAFailoverAreRefused(t *testing.T) {
	d := sit(t)
	d.plane.find = func(string) (contract.DescribeOut, error) { return protected(), nil }
	require.Equal(t, 64, d.run("failover", "--yes", "--force", "db1"))
	require.Equal(t, 64, d.run("failover", "--yes", "--abandon", "--hold", "db1"))
	require.Equal(t, 64, d.run("failover", "--yes", "--dry-run", "--retry", "db1"))
	require.Equal(t, 11, d.run("failover", "--yes", "--retry", "db1"), "none came to nothing")
}
