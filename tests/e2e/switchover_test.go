package e2e

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/deploy/lab/labkit"
)

// moved is what switchover, failback and test-failover print.
type moved struct {
	Outcome  string  `json:"outcome"`
	Planned  bool    `json:"planned"`
	Downtime float64 `json:"downtime_s"`
	From     string  `json:"from"`
	To       string  `json:"to"`
	Evidence struct {
		Kind string `json:"kind"`
	} `json:"evidence"`
}

// move runs a planned move and judges that no acknowledged row is missing after it.
func (s *story) move(from, to string, argv ...string) moved {
	s.t.Helper()
	began := time.Now()
	out := s.cli(append(argv, "--output", "json", s.name)...)
	var m moved
	require.NoError(s.t, json.Unmarshal([]byte(out), &m), out)
	require.Equal(s.t, "done", m.Outcome)
	require.True(s.t, m.Planned)
	require.Equal(s.t, "surrendered", m.Evidence.Kind)
	loss := s.recovered(from, to, began, 0)
	require.Zero(s.t, loss.RowsLost, "nothing may be lost")
	s.t.Logf("%s: nothing ran for %.2f s, rows came again after %.1f s, %d rows and none lost", argv[0], m.Downtime, loss.RTO, loss.RowsRecovered)
	return m
}

// protectedTo waits until points go in a direction.
func (s *story) protectedTo(primary, standby string) labkit.Protection {
	s.t.Helper()
	return s.until(3*time.Minute, "points on "+standby, func(p labkit.Protection) bool {
		return p.Phase == "Protected" && p.Primary == primary && p.Standby == standby && p.LastPoint != nil && p.Points > 0
	})
}

// A planned move, there and back: every row that the guest acknowledged is there, and what is sent back is what was written.
func TestASwitchoverThereAndBackLosesNothing(t *testing.T) {
	s := begin(t, "move", 8*time.Minute, "--workload", "db", "--disk", "512M", "--data-disk", "64M")
	s.fillDisk(hostA, 64<<20) // what a full copy back would have to send
	s.protect("--rpo", "10s")
	s.untilSeq(2*time.Minute, 2)
	s.waitAcks(hostA, 5)

	m := s.move(hostA, hostB, "switchover", "--yes")
	require.LessOrEqual(t, m.Downtime, 15.0)
	p := s.protectedTo(hostB, hostA)
	require.Equal(t, uint64(2), p.Generation)
	require.NotContains(t, s.exec(hostA, "virsh list --all --name"), s.name, "the old copy is gone, its disks are kept")
	s.exec(hostA, "test -s /var/lib/libvirt/images/"+s.name+".qcow2")
	first := s.firstOn(hostA)
	_, changed, sent := first.Sum()
	t.Logf("the first point back: %d bytes changed, %d sent", changed, sent)
	require.Equal(t, "resync", first.Disks[0].Mode)
	require.Less(t, sent, int64(16<<20), "not a full copy")

	s.waitAcks(hostB, 5)
	s.move(hostB, hostA, "failback", "--yes")
	s.protectedTo(hostA, hostB)
	require.NotContains(t, s.exec(hostB, "virsh list --all --name"), s.name)
	said := s.refused(11, "failback", "--yes", s.name)
	require.Contains(t, said, "already")
}

// The control plane stands still for longer than the pause may last: the agent lets the VM go on, and what it then writes
// keeps it where it is.
func TestASwitchoverThatTakesTooLongLeavesTheVMRunning(t *testing.T) {
	long(t)
	s := begin(t, "toolong", 6*time.Minute, "--workload", "db", "--disk", "512M")
	s.protect("--rpo", "20s")
	s.untilSeq(2*time.Minute, 2)
	s.run("slow", hostA, "--rate", "64kbit") // so that there is a moment to be seen
	s.cli("switchover", "--yes", "--no-wait", "--max-pause", "4s", s.name)
	s.exec(hostA, `timeout 30 sh -c 'until virsh domstate `+s.name+` | grep -q paused; do sleep 0.02; done'`)
	s.exec("control", "pkill -STOP -f '[u]nderstudy server'")
	s.repair("control", "sh", "-c", "pkill -CONT -f '[u]nderstudy server'; true")
	s.exec(hostA, `timeout 60 sh -c 'until virsh domstate `+s.name+` | grep -q running; do sleep 0.1; done'`)
	s.run("slow", hostA, "--off")
	s.waitAcks(hostA, 3)
	s.exec("control", "pkill -CONT -f '[u]nderstudy server'")
	p := s.until(2*time.Minute, "the end of the switchover", func(p labkit.Protection) bool {
		return p.Failover != nil && strings.Contains(string(*p.Failover), "rolled back") || p.Primary == hostB
	})
	require.Equal(t, hostA, p.Primary)
	require.Contains(t, string(*p.Failover), "not stopped")
	after := s.waitAcks(hostA, 3)
	s.until(2*time.Minute, "protection to go on", func(p labkit.Protection) bool {
		return p.Phase == "Protected" && p.Primary == hostA && p.LastPoint != nil && p.LastPoint.TakenAt.After(after.At)
	})
	require.NotContains(t, s.exec(hostB, "virsh list --all --name"), s.name)
	require.Contains(t, s.exec(hostA, "virsh domstate "+s.name), "running")
}

// The control plane dies while the VM is paused, and stays away: the agent ends the pause.
func TestAControlPlaneThatDiesInASwitchoverDoesNotLeaveTheVMPaused(t *testing.T) {
	long(t)
	s := begin(t, "orphan", 6*time.Minute, "--workload", "db", "--disk", "512M")
	s.protect("--rpo", "20s")
	s.untilSeq(2*time.Minute, 2)
	s.run("slow", hostA, "--rate", "64kbit")
	s.cli("switchover", "--yes", "--no-wait", "--max-pause", "10s", s.name)
	s.exec(hostA, `timeout 30 sh -c 'until virsh domstate `+s.name+` | grep -q paused; do sleep 0.05; done'`)
	s.run("partition", "control")
	paused := time.Now()
	s.exec(hostA, `timeout 60 sh -c 'until virsh domstate `+s.name+` | grep -q running; do sleep 0.1; done'`)
	t.Logf("the VM went on after %.1f s without a control plane", time.Since(paused).Seconds())
	require.Less(t, time.Since(paused), 20*time.Second)
	s.waitAcks(hostA, 3)
	s.run("slow", hostA, "--off")
	s.run("heal", "control")
	s.until(3*time.Minute, "protection to go on", func(p labkit.Protection) bool { return p.Phase == "Protected" && p.Primary == hostA })
	require.NotContains(t, s.exec(hostB, "virsh list --all --name"), s.name)
	s.waitAcks(hostA, 3)
}
