package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/deploy/lab/labkit"
)

// The main promise: the host loses power, and the VM comes back elsewhere with what was promised.
func TestAHostLosesPowerAndTheVMComesBackWithItsData(t *testing.T) {
	const rpo = 10 * time.Second
	s := begin(t, "power", 8*time.Minute, "--workload", "db", "--disk", "512M", "--data-disk", "64M")
	s.protect("--rpo", rpo.String())
	s.untilSeq(2*time.Minute, 3)

	crashed := time.Now()
	s.run("crash", hostA)
	p := s.until(2*time.Minute, "the failover", func(p labkit.Protection) bool { return p.Primary == hostB })
	require.Equal(t, uint64(2), p.Generation)
	s.recovered(hostA, hostB, crashed, rpo)

	// The old host comes back: it must not run the old copy, and becomes the standby by itself.
	s.run("boot", hostA)
	p = s.until(4*time.Minute, "protection in the other direction", func(p labkit.Protection) bool {
		return p.Phase == "Protected" && p.Standby == hostA && p.LastPoint != nil && p.LastPoint.VerifiedAt.After(crashed)
	})
	require.Equal(t, hostB, p.Primary)
	require.NotContains(t, s.exec(hostA, "virsh list --name"), s.name, "the old copy must not run")
	require.Contains(t, s.exec(hostB, "virsh list --name"), s.name)
}

// QEMU dies on a healthy host: its agent proves that the copy is gone, so no power is cut.
func TestQEMUIsKilledAndTheVMMovesWithoutAPowerCut(t *testing.T) {
	const rpo = 10 * time.Second
	s := begin(t, "qemu", 6*time.Minute, "--workload", "db", "--disk", "512M")
	s.protect("--rpo", rpo.String(), "--recover-in-place", "0")
	s.untilSeq(2*time.Minute, 2)

	killed := time.Now()
	s.killQEMU(hostA)
	p := s.until(2*time.Minute, "the failover", func(p labkit.Protection) bool { return p.Primary == hostB })
	require.NotNil(t, p.Failover)
	require.Contains(t, string(*p.Failover), "surrendered")
	s.recovered(hostA, hostB, killed, rpo)
	require.Equal(t, "on", trim(s.run("power", hostA)))
}

// Nothing proves that the old VM is off: nothing is started, and a person is asked.
func TestWithoutProofThatTheOldVMIsOffNothingIsStarted(t *testing.T) {
	s := begin(t, "split", 8*time.Minute, "--workload", "db", "--disk", "512M")
	s.protect("--rpo", "10s", "--isolation", "keep")
	s.untilSeq(2*time.Minute, 2)

	// The fence device is dead and the host is cut off from everybody, but its VM runs on.
	s.fenceFault(hostA)
	s.run("partition", hostA)
	s.until(3*time.Minute, "the alert that asks a person", func(p labkit.Protection) bool { return p.Raised("FenceUnconfirmed") })
	require.NotContains(t, s.exec(hostB, "virsh list --all --name"), s.name, "a second copy may exist nowhere")
	before, _ := s.watch.LastAck(hostA)
	s.waitAcks(hostA, 3)
	after, _ := s.watch.LastAck(hostA)
	require.Greater(t, after.Row, before.Row, "the VM goes on where it is")

	s.run("fence-fault", hostA, "--off")
	s.run("heal", hostA)
	s.until(3*time.Minute, "protection to go on", func(p labkit.Protection) bool {
		return p.Phase == "Protected" && p.Primary == hostA && p.LastPoint != nil && p.LastPoint.TakenAt.After(after.At)
	})
}
