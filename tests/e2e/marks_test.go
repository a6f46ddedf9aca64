package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/deploy/lab/labkit"
)

// A person removes the protection while a capture is under way, at whatever moment of it: its job, its socket and its record go too.
func TestAnUnprotectInTheMiddleOfACaptureLeavesNothing(t *testing.T) {
	long(t)
	s := begin(t, "raced", 8*time.Minute, "--workload", "db", "--disk", "256M")
	uuid := trim(s.exec(hostA, "virsh domuuid "+s.name))
	for round := range 6 {
		s.protect("--rpo", "10s")
		asked := make(chan struct{})
		go func() { // it is refused, or it fails: what it leaves is what counts
			defer close(asked)
			_, _ = s.lab.CLI(s.ctx, "sync", s.name)
		}()
		if round%2 == 0 { // some at the job's begin, some around it
			s.exec(hostA, fmt.Sprintf("timeout 20 sh -c 'until [ -e /run/understudy/understudy-%[1]s.sock ] || [ -e /var/lib/understudy/captures/%[1]s/open.json ]; do :; done' || true", uuid))
		} else {
			time.Sleep(time.Duration(round*60) * time.Millisecond)
		}
		s.cli("unprotect", "--yes", "--purge", s.name)
		<-asked
		left := s.exec(hostA, fmt.Sprintf("ls -d /var/lib/understudy/captures/%[1]s /var/lib/understudy/scratch/%[1]s /run/understudy/*%[1]s* /var/lib/understudy/floors/%[1]s* /var/lib/understudy/watch/*%[1]s* 2>/dev/null; virsh checkpoint-list --name %[2]s; virsh backup-dumpxml %[2]s 2>/dev/null; true", uuid, s.name))
		require.Empty(t, trim(left), "round %d", round)
		require.Contains(t, s.cli("marks"), " 0 leftovers")
	}
}

// A protection ends while a host is off. Its guard does not know that, and refuses the VM: marks says so, and what a person does.
func TestAHostThatWasOffWhenTheProtectionEndedSaysWhatItRefuses(t *testing.T) {
	long(t)
	s := begin(t, "absent", 8*time.Minute, "--workload", "idle", "--disk", "128M")
	s.protect("--rpo", "30s", "--failover", "manual")
	s.leased(time.Minute)
	uuid := trim(s.exec(hostA, "virsh domuuid "+s.name))
	s.run("crash", hostA)
	s.cli("unprotect", "--yes", "--purge", s.name)
	s.run("boot", hostA)
	require.NoError(t, s.lab.WaitHosts(s.ctx, 2))
	_, err := s.lab.Exec(s.ctx, hostA, "virsh", "start", s.name)
	require.Error(t, err, "nobody told the guard")

	forget := "understudy guard forget " + uuid
	shown, err := s.lab.CLI(s.ctx, "marks", hostA)
	require.Equal(t, 3, exitCode(err))
	require.Contains(t, shown, forget)
	shown, err = s.lab.CLI(s.ctx, "marks", "--clean", "--yes", hostA)
	require.Equal(t, 3, exitCode(err), "the guard's word is a person's to give")
	require.Contains(t, shown, " 1 leftovers")
	require.Contains(t, shown, forget)
	s.exec(hostA, s.lab.Binary("understudy")+" guard forget "+uuid)
	require.Contains(t, s.cli("marks", hostA), " 0 leftovers")
	s.exec(hostA, "virsh start "+s.name)
}

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
