package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/deploy/lab/labkit"
)

// Exit codes of docs/CLI.md.
const (
	exitFailed   = 1
	exitNotFound = 10
	exitConflict = 11
	exitUnsafe   = 12
	exitUsage    = 64
)

// Whatever is asked wrongly is refused with a reason and the documented exit code, and leaves nothing behind.
func TestWrongInputIsRefusedAndLeavesNothing(t *testing.T) {
	s := begin(t, "wrong", 6*time.Minute, "--workload", "idle", "--disk", "256M")
	for _, c := range []struct {
		name, says string
		code       int
		args       []string
	}{
		{"an unknown VM", "nosuch", exitNotFound, []string{"protect", "--standby", hostB, "nosuch"}},
		{"an unknown standby", "host-z", exitNotFound, []string{"protect", "--standby", "host-z", s.name}},
		{"the standby is the primary", hostA, exitUsage, []string{"protect", "--standby", hostA, s.name}},
		{"an RPO of nothing", "RPO", exitUsage, []string{"protect", "--standby", hostB, "--rpo", "0s", s.name}},
		{"a flag behind the VM", "--rpo", exitUsage, []string{"protect", "--standby", hostB, s.name, "--rpo", "30s"}},
		{"an unknown verb", "", exitUsage, []string{"replicate-everything"}},
		{"the status of what is not protected", s.name, exitNotFound, []string{"status", s.name}},
		{"unprotecting what is not protected", s.name, exitNotFound, []string{"unprotect", "--yes", s.name}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := *s
			s.t = t
			require.Contains(t, s.refused(c.code, c.args...), c.says)
		})
	}
	s.nothingLeft()
}

// A disk outside the folders that the agent was given is not touched.
func TestADiskOutsideTheAllowedFoldersIsRefused(t *testing.T) {
	s := begin(t, "outside", 6*time.Minute, "--workload", "idle", "--disk", "256M")
	s.exec(hostA, `set -e
virsh destroy outside >/dev/null
disk=$(virsh domblklist outside | awk '$1=="vda" {print $2}')
mkdir -p /var/lib/libvirt/elsewhere && mv "$disk" /var/lib/libvirt/elsewhere/disk.qcow2 && ln -s /var/lib/libvirt/elsewhere/disk.qcow2 "$disk"
virsh start outside >/dev/null`)
	s.repair(hostA, "rm", "-rf", "/var/lib/libvirt/elsewhere")
	said := s.refused(exitUnsafe, "protect", "--standby", hostB, s.name)
	require.Contains(t, said, "/var/lib/libvirt/elsewhere", "a link out of the folder is followed before it is judged")
	require.Contains(t, said, "Try:")
	s.nothingLeft()
}

// The standby has no room for the first copy: refused before a byte is sent.
func TestAStandbyWithoutRoomIsRefusedBeforeAnythingIsSent(t *testing.T) {
	s := begin(t, "noroom", 6*time.Minute, "--workload", "idle", "--disk", "512M")
	s.fillDisk(hostA, 64<<20)
	store := "/var/lib/understudy/replicas"
	s.exec(hostB, "mount -t tmpfs -o size=40m tmpfs "+store)
	s.repair(hostB, "umount", "-l", store)
	said := s.refused(exitFailed, "protect", "--standby", hostB, s.name)
	require.Contains(t, said, hostB)
	s.nothingLeft()
}

// One VM has one protection, and it can be taken away only when no failover runs.
func TestASecondProtectionAndUnprotectDuringAFailoverAreConflicts(t *testing.T) {
	long(t)
	s := begin(t, "twice", 8*time.Minute, "--workload", "db", "--disk", "512M")
	s.protect("--rpo", "10s")
	s.refused(exitConflict, "protect", "--standby", hostB, "--rpo", "10s", s.name)
	s.untilSeq(time.Minute, 2)

	// Without power control and without an agent to surrender, the failover searches for evidence for a while.
	s.fenceFault(hostA)
	s.run("partition", hostA)
	s.until(2*time.Minute, "the failover to begin", func(p labkit.Protection) bool { return p.Phase == "FailingOver" })
	said := s.refused(exitConflict, "unprotect", "--yes", s.name)
	require.Contains(t, strings.ToLower(said), "failover")
	s.run("fence-fault", hostA, "--off")
	s.run("heal", hostA)
	s.until(3*time.Minute, "the end of the failover", func(p labkit.Protection) bool { return p.Phase == "Protected" })
}

// A raw disk cannot carry a bitmap: every cycle compares it, sends only what differs, and says so.
func TestARawDiskIsReplicatedByComparison(t *testing.T) {
	const content = 48 << 20
	s := begin(t, "raw", 8*time.Minute, "--workload", "db", "--disk", "256M", "--format", "raw")
	s.fillDisk(hostA, content)
	s.protect("--rpo", "60s", "--failover", "manual")
	s.waitAcks(hostA, 5)
	s.cli("sync", s.name)
	p := s.newest()
	_, changed, sent := p.Sum()
	require.Equal(t, "resync", p.Disks[0].Mode)
	require.Contains(t, p.Disks[0].Reason, "raw")
	require.Positive(t, changed)
	require.Less(t, sent, int64(content/4))
}

// nothingLeft looks at both hosts and the control plane for what a refusal or an unprotect may have left of this guest. (The
// replica that an earlier story's guest was started from is that guest's disks, and stays.)
func (s *story) nothingLeft() {
	s.t.Helper()
	uuid := trim(s.exec(hostA, "virsh domuuid "+s.name))
	require.Len(s.t, uuid, 36)
	for _, h := range []string{hostA, hostB} {
		left := s.exec(h, fmt.Sprintf(`if virsh dominfo %[1]s >/dev/null 2>&1; then
  virsh checkpoint-list --name %[1]s
  virsh domjobinfo %[1]s | grep -q 'Job type:.*None' || echo "a job"
fi
find /var/lib/understudy /run/understudy -path '*%[1]s*' 2>/dev/null || true`, uuid))
		require.Empty(s.t, trim(left), "left on %s", h)
	}
	require.Empty(s.t, trim(s.exec("control", "find /var/lib/understudy -path '*"+uuid+"*'")), "left on the control host")
}
