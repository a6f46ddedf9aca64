package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/deploy/lab/labkit"
)

// QEMU dies on a host that is well, and the VM has to move: what it wrote after the last point is read off its disk first,
// so not one row that the guest was told is durable is lost. The RPO is long on purpose: the points alone would lose much.
func TestAVMThatMovesFromAHostThatIsWellLosesNotOneRow(t *testing.T) {
	long(t)
	s := begin(t, "salvage", 8*time.Minute, "--workload", "db", "--disk", "512M")
	s.protect("--rpo", "10m", "--recover-in-place", "0")
	s.untilSeq(2*time.Minute, 1)
	s.waitAcks(hostA, 10)

	killed := time.Now()
	s.killQEMU(hostA)
	p := s.until(3*time.Minute, "the failover", func(p labkit.Protection) bool { return p.Primary == hostB })
	require.NotNil(t, p.Failover)
	require.Contains(t, string(*p.Failover), "surrendered")
	loss := s.recovered(hostA, hostB, killed, 10*time.Minute)
	require.Zero(t, loss.RowsLost, "every acknowledged row was on the disk")
	require.Contains(t, string(*p.Failover), "holds all that the VM wrote", "a point of the dead VM's disk was started")
}
