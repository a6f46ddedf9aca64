package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/deploy/lab/labkit"
)

// A fence agent of the file cuts a dead host off, the host comes back, the protection ends: and nothing is left anywhere that
// nobody needs.
func TestAFenceAgentCutsAHostOffAndNothingIsLeftBehind(t *testing.T) {
	long(t)
	s := begin(t, "marks", 8*time.Minute, "--workload", "db", "--disk", "512M")
	s.protect("--rpo", "10s")
	s.untilSeq(2*time.Minute, 2)
	require.Contains(t, s.cli("doctor"), "fence_lab plug=host-a answers")
	require.Contains(t, s.cli("marks", "--all"), "the next delta starts here")

	crashed := time.Now()
	s.run("partition", hostA) // it runs on, and nobody hears it: only its power can be cut
	p := s.until(2*time.Minute, "the failover", func(p labkit.Protection) bool { return p.Primary == hostB })
	require.Contains(t, string(*p.Failover), "fence_lab plug=host-a of level 1 powered it off, and its status says off")
	require.Equal(t, "off", trim(s.run("power", hostA)))
	s.recovered(hostA, hostB, crashed, 10*time.Second)

	s.run("heal", hostA)
	s.run("boot", hostA)
	s.until(4*time.Minute, "protection in the other direction", func(p labkit.Protection) bool {
		return p.Phase == "Protected" && p.Standby == hostA && p.LastPoint != nil && p.LastPoint.VerifiedAt.After(crashed)
	})
	s.cli("marks") // exit 0: clean
	s.cli("unprotect", "--yes", "--purge", s.name)
	require.Contains(t, s.cli("marks"), " 0 leftovers")
}
