package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/deploy/lab/labkit"
)

// leased waits until the primary is bound by a lease.
func (s *story) leased(limit time.Duration) labkit.Protection {
	s.t.Helper()
	return s.until(limit, "the lease", func(p labkit.Protection) bool { return p.Lease != nil && p.Lease.Mode == "leased" })
}

// The host is cut off from everybody, its VM runs on, and the fence device is dead with it. Its guard stops the VM by its own
// clock, the standby waits longer than that by its own, and no person is needed.
func TestACutOffHostWithoutAFenceDeviceIsOutlastedAndNeverWritesTwice(t *testing.T) {
	const rpo = 10 * time.Second
	s := begin(t, "cutoff", 8*time.Minute, "--workload", "db", "--disk", "512M")
	s.protect("--rpo", rpo.String())
	s.untilSeq(2*time.Minute, 2)
	p := s.leased(time.Minute)
	require.Equal(t, 22.0, p.Lease.WaitS)

	s.fenceFault(hostA)
	cut := time.Now()
	s.run("partition", hostA)
	s.until(2*time.Minute, "the failover", func(p labkit.Protection) bool { return p.Primary == hostB })
	require.Contains(t, s.exec(hostA, "sed 's/.*) //; s/ .*//' /proc/$(cat /run/libvirt/qemu/cutoff.pid)/stat"), "T", "the old copy stands still")
	last, ok := s.watch.LastAck(hostA)
	require.True(t, ok)
	s.recovered(hostA, hostB, cut, time.Minute) // it wrote until its deadline: what came after the cut was never promised
	first := s.waitAcks(hostB, 1)
	require.True(t, first.At.After(last.At), "no two copies acknowledged at the same time")
	t.Logf("cut off at 0 s, last write on the old host at %.1f s, first on the new one at %.1f s", last.At.Sub(cut).Seconds(), first.At.Sub(cut).Seconds())

	s.run("fence-fault", hostA, "--off")
	s.run("heal", hostA)
	s.until(4*time.Minute, "protection in the other direction", func(p labkit.Protection) bool {
		return p.Phase == "Protected" && p.Standby == hostA && p.LastPoint != nil && p.LastPoint.VerifiedAt.After(cut)
	})
	require.NotContains(t, s.exec(hostA, "virsh list --all --name"), s.name, "the old copy is gone")
	s.leased(time.Minute)
}

// Nobody is heard for longer than a lease lasts: the VM stands still, and goes on without a reboot when the network is back.
func TestAVMThatNobodyHearsIsFrozenAndGoesOnUnderTheSameGeneration(t *testing.T) {
	s := begin(t, "pause", 8*time.Minute, "--workload", "db", "--disk", "512M")
	s.protect("--rpo", "10s")
	s.untilSeq(2*time.Minute, 2)
	s.leased(time.Minute)

	booted := strings.Count(s.watch.Tail(10000), "READY")
	s.run("partition", hostA)
	s.run("partition", hostB) // the standby hears nobody either, so it cannot take over
	s.eventually(time.Minute, "the guard to freeze the VM", func() bool {
		return strings.Contains(s.exec(hostA, "sed 's/.*) //; s/ .*//' /proc/$(cat /run/libvirt/qemu/pause.pid)/stat"), "T")
	})
	frozen, _ := s.watch.LastAck(hostA)
	s.run("heal", hostA)
	s.run("heal", hostB)
	s.eventually(time.Minute, "the VM to go on", func() bool {
		ack, _ := s.watch.LastAck(hostA)
		return ack.Row > frozen.Row
	})
	p := s.until(2*time.Minute, "protection to go on", func(p labkit.Protection) bool { return p.Phase == "Protected" && p.Primary == hostA })
	require.EqualValues(t, 1, p.Generation)
	require.Equal(t, booted, strings.Count(s.watch.Tail(10000), "READY"), "the guest was not booted again")
}

// Losing only the control plane, or only the standby, never stops a VM.
func TestLosingOneOfTheTwoGrantorsStopsNothing(t *testing.T) {
	long(t)
	s := begin(t, "one", 8*time.Minute, "--workload", "db", "--disk", "512M")
	s.protect("--rpo", "10s")
	s.untilSeq(2*time.Minute, 2)
	s.leased(time.Minute)
	for _, lost := range []string{"control", hostB} {
		s.run("crash", lost)
		before, _ := s.watch.LastAck(hostA)
		gone := time.Now()
		s.eventually(time.Minute, "rows written well beyond a lease", func() bool {
			ack, _ := s.watch.LastAck(hostA)
			return ack.Row > before.Row+5 && time.Since(gone) > 25*time.Second
		})
		ack, _ := s.watch.LastAck(hostA)
		require.Less(t, time.Since(ack.At), 5*time.Second, "it writes on without %s", lost)
		s.run("boot", lost)
		s.hostsUp()
	}
	require.Zero(t, strings.Count(s.exec(hostA, "grep -c freeze /var/lib/understudy/guard.log || true"), "freeze"))
}

func (s *story) eventually(limit time.Duration, what string, want func() bool) {
	s.t.Helper()
	require.Eventually(s.t, want, limit, 500*time.Millisecond, what)
}

// QEMU dies on a host that is well: it is started again there, and nothing is lost.
func TestAVMThatDiesOnAHostThatIsWellIsStartedAgainThere(t *testing.T) {
	s := begin(t, "again", 6*time.Minute, "--workload", "db", "--disk", "512M")
	s.protect("--rpo", "10s")
	s.untilSeq(2*time.Minute, 2)
	kill := `kill -9 "$(cat /run/libvirt/qemu/again.pid)"` // it runs again before one could see it shut off
	s.exec(hostA, kill)
	killed := time.Now()
	last, ok := s.watch.LastAck(hostA)
	require.True(t, ok)
	check, err := s.watch.WaitCheck(s.ctx, hostA, killed)
	require.NoError(t, err)
	require.True(t, check.OK, check.Text)
	require.GreaterOrEqual(t, check.Rows, last.Row, "every row that was acknowledged is there")
	p := s.until(2*time.Minute, "a point after it", func(p labkit.Protection) bool { return p.LastPoint != nil && p.LastPoint.TakenAt.After(killed) })
	require.Equal(t, hostA, p.Primary)
	require.EqualValues(t, 1, p.Generation)
	s.exec(hostA, kill)
	s.until(2*time.Minute, "the failover of a VM that keeps dying", func(p labkit.Protection) bool { return p.Primary == hostB })
}
