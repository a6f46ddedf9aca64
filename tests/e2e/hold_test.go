package e2e

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/deploy/lab/labkit"
)

// A person tries the standby out, takes it back, tries it again, and keeps it.
func TestAHeldFailoverIsTakenBackAndAnotherOneIsKept(t *testing.T) {
	s := begin(t, "held", 10*time.Minute, "--workload", "db", "--disk", "512M")
	s.protect("--rpo", "10s")
	s.untilSeq(2*time.Minute, 2)
	s.leased(time.Minute)

	var plan struct {
		Point uint64 `json:"point"`
		Rungs []struct {
			Name   string `json:"name"`
			Usable bool   `json:"usable"`
		} `json:"rungs"`
	}
	require.NoError(t, json.Unmarshal([]byte(s.cli("failover", "--dry-run", "--output", "json", s.name)), &plan))
	require.NotZero(t, plan.Point)
	for _, r := range plan.Rungs {
		require.True(t, r.Usable, r.Name)
	}
	s.refused(11, "commit", s.name)

	asked := time.Now()
	s.cli("failover", "--yes", "--hold", s.name)
	s.waitLine(hostB, asked, `READY`)
	require.NotContains(t, s.exec(hostA, "virsh list --name"), s.name, "one copy runs")
	p := s.until(time.Minute, "status to say that it is held", func(p labkit.Protection) bool {
		return p.Failover != nil && strings.Contains(string(*p.Failover), `"held_until"`)
	})
	require.Equal(t, "FailingOver", p.Phase)
	shown, err := s.lab.CLI(s.ctx, "status", s.name)
	require.Equal(t, 3, exitCode(err))
	require.Contains(t, shown, "understudy rollback "+s.name)
	last, ok := s.watch.LastAck(hostA)
	require.True(t, ok)

	back := time.Now()
	s.cli("rollback", "--yes", s.name)
	s.waitLine(hostA, back, `READY`)
	p = s.until(2*time.Minute, "protection to go on", func(p labkit.Protection) bool {
		return p.Phase == "Protected" && p.Primary == hostA && p.LastPoint != nil && p.LastPoint.TakenAt.After(back)
	})
	require.EqualValues(t, 3, p.Generation)
	require.NotContains(t, s.exec(hostB, "virsh list --all --name"), s.name, "nothing is left of the try")
	s.waitAcks(hostA, 3)
	after, _ := s.watch.LastAck(hostA)
	require.Greater(t, after.Row, last.Row, "its own writes are all there, and it writes on")

	again := time.Now()
	s.cli("failover", "--yes", "--hold", s.name)
	s.waitLine(hostB, again, `READY`)
	s.cli("commit", s.name)
	s.until(3*time.Minute, "protection in the other direction", func(p labkit.Protection) bool {
		return p.Phase == "Protected" && p.Primary == hostB && p.Standby == hostA && p.LastPoint != nil && p.LastPoint.TakenAt.After(again)
	})
	s.leased(time.Minute)
}
