package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/deploy/lab/labkit"
)

func trim(s string) string { return strings.TrimSpace(s) }

// killQEMU ends the guest's QEMU process as a crash would, and waits until libvirtd has noticed.
func (s *story) killQEMU(host string) {
	s.t.Helper()
	s.exec(host, fmt.Sprintf(`kill -9 "$(cat /run/libvirt/qemu/%[1]s.pid)" && timeout 20 sh -c 'until virsh domstate %[1]s | grep -q "shut off"; do sleep 0.1; done'`, s.name))
}

// killService kills a supervised service of a lab host, when it is there; the lab starts it again after a second.
func (s *story) killService(host, pattern string) {
	s.t.Helper()
	// The bracket keeps the pattern from matching the shell that runs it.
	s.exec(host, "timeout 20 sh -c \"until pkill -9 -f '["+pattern[:1]+"]"+pattern[1:]+"'; do sleep 0.1; done\"")
}

// The primary's agent dies in the middle of the first copy and comes back: it goes on from what the standby has.
func TestTheAgentIsKilledInMidReplicateAndResumes(t *testing.T) {
	long(t)
	const content = 96 << 20
	s := begin(t, "resume", 8*time.Minute, "--workload", "idle", "--disk", "512M")
	s.fillDisk(hostA, content)
	s.cli("protect", "--standby", hostB, "--rpo", "60s", "--bandwidth", "12MB", "--compression", "off", s.name)
	s.until(time.Minute, "a third of the copy", func(labkit.Protection) bool {
		return s.stagedBytes() > content/3
	})
	killed := s.stagedBytes()
	s.killService(hostA, "understudy agent")
	s.untilSeq(3*time.Minute, 1)

	dirty, changed, sent := s.newest().Sum()
	t.Logf("killed after %d bytes; point: dirty %d, changed %d, sent %d", killed, dirty, changed, sent)
	// The figures are of the attempt that ended; one that begins at the start again sends the whole content.
	require.Less(t, sent, content-killed/2, "what the standby had acknowledged was sent again")
	require.Greater(t, sent, content-killed*5/4, "and the rest was sent")
}

// The control plane dies, with Temporal: the protection goes on where it was, and no point is lost or made twice.
func TestServerAndTemporalAreKilledAndNoCycleIsLostOrDoubled(t *testing.T) {
	s := begin(t, "server", 8*time.Minute, "--workload", "db", "--disk", "512M")
	s.protect("--rpo", "10s", "--keep-last", "50")
	for round, victim := range []string{"understudy-temporal", "understudy server"} {
		seq := s.newest().Seq
		s.untilSeq(time.Minute, seq+1)
		s.killService("control", victim)
		p := s.untilSeq(3*time.Minute, seq+4)
		t.Logf("round %d (%s): phase %s, point %d", round, victim, p.Phase, p.LastPoint.Seq)
	}
	s.until(time.Minute, "Protected again", func(p labkit.Protection) bool { return p.Phase == "Protected" })
	seen := map[uint64]bool{}
	last := uint64(0)
	for _, p := range s.points() {
		require.False(t, seen[p.Seq], "point %d twice", p.Seq)
		seen[p.Seq] = true
		require.Greater(t, p.Seq, last)
		last = p.Seq
	}
}

// QEMU dies without closing its bitmaps and the VM is started again on the same host: libvirt still lists the
// checkpoints, but nothing they say can be trusted. Only what differs may be sent.
func TestAfterAnUncleanStopOnlyWhatDiffersIsSent(t *testing.T) {
	const content = 64 << 20
	s := begin(t, "unclean", 8*time.Minute, "--workload", "db", "--disk", "512M")
	s.fillDisk(hostA, content)
	s.protect("--rpo", "30s", "--failover", "manual")
	s.cli("pause", s.name)
	s.killQEMU(hostA)
	booted := time.Now()
	s.exec(hostA, "virsh start "+s.name)
	s.waitLine(hostA, booted, `DB-CHECK ok`)
	s.waitAcks(hostA, 10)
	s.cli("resume", s.name)
	s.cli("sync", s.name)

	p := s.newest()
	dirty, changed, sent := p.Sum()
	t.Logf("dirty %d, changed %d, sent %d, %+v", dirty, changed, sent, p.Disks)
	require.Equal(t, "resync", p.Disks[0].Mode)
	require.NotEmpty(t, p.Disks[0].Reason)
	require.Less(t, changed, int64(content/4), "a resync must not send what the standby has")
	require.Less(t, sent, int64(content/4))
	require.Positive(t, changed)
}

// The standby runs out of space in the middle of a point: the one before stays as it is, and the error says so.
func TestTheStandbyIsFullAndThePreviousPointStaysIntact(t *testing.T) {
	s := begin(t, "full", 8*time.Minute, "--workload", "db", "--disk", "512M", "--data-disk", "256M")
	store := "/var/lib/understudy/replicas"
	// 256 MiB of it stay free for what must never fail for want of space.
	s.exec(hostB, "mount -t tmpfs -o size=420m tmpfs "+store)
	s.repair(hostB, "umount", "-l", store)
	s.protect("--rpo", "10s", "--failover", "manual")
	before := s.newest()

	s.fillDisk(hostA, 200<<20)
	// The alert is there first; the phase follows when dropping old points has not helped.
	s.until(2*time.Minute, "the alert about space and a degraded protection", func(p labkit.Protection) bool {
		return p.Phase == "Degraded" && p.Raised("StandbyFull")
	})
	points := s.points()
	require.Equal(t, before.Seq, points[0].Seq)
	require.Contains(t, s.verifyPoint(hostB, before.Seq), "No errors were found", "the previous point is intact")
}

// A byte of what was received changes before it is proved: no point is made of it.
func TestCorruptedStagingIsNeverCommitted(t *testing.T) {
	const content = 64 << 20
	s := begin(t, "corrupt", 8*time.Minute, "--workload", "idle", "--disk", "512M")
	s.fillDisk(hostA, content)
	s.cli("protect", "--standby", hostB, "--rpo", "60s", "--bandwidth", "8MB", "--compression", "off", s.name)
	s.until(time.Minute, "some staged bytes", func(labkit.Protection) bool { return s.stagedBytes() > content/4 })
	s.corruptStaging(hostB)
	s.untilSeq(3*time.Minute, 1)
	for _, p := range s.points() {
		require.NotEqual(t, uint64(1), p.Seq, "the corrupted staging was committed")
	}
}

// corruptStaging overwrites the first data block of the newest staged image, behind the receiver's back.
func (s *story) corruptStaging(host string) {
	s.t.Helper()
	s.exec(host, `set -e
f=$(find /var/lib/understudy/replicas/*/staging -type f -size +1M | xargs ls -S | head -n1)
block=$(od -An -v -tx1 -w4096 "$f" | awk '/[1-9a-f]/ {print NR-1; exit}')
dd if=/dev/urandom of="$f" bs=4096 count=1 seek="$block" conv=notrunc status=none
echo "corrupted block $block of $f"`)
}
