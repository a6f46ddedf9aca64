package cli

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/model"
)

const takeover = "failover/x/2"

// failing makes the plane run a failover that ends with out after a few looks.
func failing(d *desk, outcome string, out contract.FailoverOut) *contract.FailoverRequestIn {
	var asked contract.FailoverRequestIn
	d.plane.find = func(string) (contract.DescribeOut, error) { return protected(), nil }
	d.plane.failover = func(in contract.FailoverRequestIn) (contract.FailoverRequestOut, error) {
		asked = in
		return contract.FailoverRequestOut{WorkflowID: takeover, Generation: 2}, nil
	}
	looks := 0
	d.plane.timeline = contract.FailoverOut{Steps: out.Steps[:1]}
	d.plane.describe = func() (contract.DescribeOut, error) {
		p := protected()
		p.State.Phase = model.PhaseFailingOver
		p.State.Failover = &contract.FailoverBrief{WorkflowID: takeover, Generation: 2, From: "host-a", To: "host-b", StartedAt: noon}
		if looks++; looks > 3 {
			end := noon.Add(9 * time.Second)
			p.State.Failover.EndedAt, p.State.Failover.Outcome, p.State.Failover.Result, p.State.Failover.Error = &end, outcome, &out, out.Error
		}
		return p, nil
	}
	return &asked
}

func TestFailoverIsFollowedToItsEnd(t *testing.T) {
	d := sit(t)
	asked := failing(d, contract.OutcomeDone, contract.FailoverOut{
		Evidence: &model.Evidence{Kind: model.EvidenceFenced, By: "fence-hosts", Detail: "status says off"},
		Steps: []contract.FailoverStep{
			{Name: "claim", At: noon.Add(100 * time.Millisecond), Detail: "generation 2"},
			{Name: "start", At: noon.Add(8 * time.Second), Detail: "on host-b"},
		},
	})
	require.Equal(t, 0, d.run("failover", "--yes", "--point", "41", "--reason", "drill", "db1"), d.stderr.String())
	require.Equal(t, contract.FailoverRequestIn{By: "kim@console", Reason: "drill", Seq: 41}, *asked)
	require.Regexp(t, `(?s)\+0\.1 s  claim .*generation 2\n.*\+8\.0 s  start`, d.stderr.String())
	require.Equal(t, "db1 runs on host-b, generation 2, after 9.0 s; the old copy is off: fenced by fence-hosts: status says off\n", d.stdout.String())
}

func TestWithoutProofAPersonGetsTheChoices(t *testing.T) {
	d := sit(t)
	failing(d, contract.OutcomeFailed, contract.FailoverOut{
		Error: "host-a cannot be proved off", ErrorType: string(model.FenceUnconfirmed), Steps: []contract.FailoverStep{{Name: "prove", At: noon, Error: "no answer"}},
	})
	require.Equal(t, 12, d.run("failover", "--yes", "db1"))
	require.Contains(t, d.stderr.String(), "host-a cannot be proved off")
	require.Contains(t, d.stderr.String(), "Choices:")
	require.Contains(t, d.stderr.String(), "understudy failover --confirm-primary-down db1")
	require.Equal(t, 12, d.run("failover", "--yes", "--output", "json", "db1"))
	require.Equal(t, "failed", d.answer(t)["outcome"])
}

func TestAWordThatTheHostIsOffIsAskedForPlainly(t *testing.T) {
	d := sit(t)
	failing(d, contract.OutcomeDone, contract.FailoverOut{Steps: []contract.FailoverStep{{}}})
	require.Equal(t, 64, d.run("failover", "--confirm-primary-down", "db1"))
	require.Contains(t, failoverQuestion(protected(), true, noon), "You confirm that the host host-a is POWERED OFF")
}

func TestNoWaitReturnsAsSoonAsTheFailoverRuns(t *testing.T) {
	d := sit(t)
	failing(d, contract.OutcomeDone, contract.FailoverOut{Steps: []contract.FailoverStep{{}}})
	d.plane.describe = nil // nobody follows
	require.Equal(t, 0, d.run("failover", "--yes", "--no-wait", "--output", "json", "db1"))
	require.Equal(t, takeover, d.answer(t)["workflow_id"])
}
