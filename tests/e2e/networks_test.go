package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/deploy/lab/labkit"
)

// bridge makes one on a host, until the end of the story.
func (s *story) bridge(host, name string) {
	s.t.Helper()
	s.exec(host, fmt.Sprintf("ip link add %[1]s type bridge && ip link set %[1]s up", name))
	s.repairs = append(s.repairs, func(ctx context.Context) { _, _ = s.lab.Exec(ctx, host, "ip", "link", "del", name) })
}

// file writes a text on a host, for root alone to change.
func (s *story) file(host, path, mode, text string) {
	s.t.Helper()
	s.exec(host, fmt.Sprintf("cat >%[1]s <<'END'\n%[2]s\nEND\nchmod %[3]s %[1]s", path, text, mode))
	s.repairs = append(s.repairs, func(ctx context.Context) { _, _ = s.lab.Exec(ctx, host, "rm", "-f", path) })
}

// The other host's network has another name. Without it nothing is begun; with it the VM is connected there, and a failover counts
// only when the probe of the policy passes: when it does not, the VM goes back to where it was.
func TestAFailoverMapsTheNetworkAndCountsWhenTheProbePasses(t *testing.T) {
	long(t)
	const probe = "/var/lib/understudy/probe"
	s := begin(t, "wired", 12*time.Minute, "--workload", "db", "--disk", "256M")
	s.bridge(hostA, "br-prod")
	s.exec(hostA, "virsh destroy wired && virsh attach-interface wired bridge br-prod --model virtio --config && virsh start wired")
	s.file(hostB, probe, "755", "#!/bin/sh\n"+`test -n "$UNDERSTUDY_UUID" && ip -o link show master br-dr | grep -q vnet`)
	s.file(hostA, probe, "755", "#!/bin/sh\necho not well; exit 1")
	s.file("control", "/run/wired.yaml", "644", `version: 1
rpo: 10s
failover:
  mode: auto
  recover-in-place: 0
  networks: {br-prod: br-dr, br-dr: br-prod}
  probes:
    - {kind: command, command: [`+probe+`], timeout: 20s}`)
	s.protect("--policy", "/run/wired.yaml")
	s.untilSeq(2*time.Minute, 2)
	s.leased(time.Minute)

	said := s.refused(12, "failover", "--yes", s.name)
	require.Contains(t, said, "br-dr is not here")
	p := s.until(time.Minute, "the state", func(labkit.Protection) bool { return true })
	require.EqualValues(t, 1, p.Generation, "nothing was claimed")
	require.Contains(t, s.exec(hostA, "virsh list --name"), s.name, "and nothing was stopped")

	s.bridge(hostB, "br-dr")
	asked := time.Now()
	s.cli("failover", "--yes", s.name)
	s.waitLine(hostB, asked, `READY`)
	require.Regexp(t, `bridge\s+br-dr\s`, s.exec(hostB, "virsh domiflist "+s.name))
	p = s.until(2*time.Minute, "protection in the other direction", func(p labkit.Protection) bool {
		return p.Phase == "Protected" && p.Primary == hostB && p.LastPoint != nil && p.LastPoint.TakenAt.After(asked)
	})
	require.False(t, stepOf(p, "probe").At.IsZero(), "the guest was asked")
	s.untilSeq(2*time.Minute, p.LastPoint.Seq+1)

	// Its way back: the probe of host-a fails, whatever point is started.
	again := time.Now()
	_, err := s.lab.CLI(s.ctx, "failover", "--yes", s.name)
	require.Error(t, err)
	require.Contains(t, err.Error(), "the command probe did not pass")
	p = s.until(3*time.Minute, "the VM to go on where it was", func(p labkit.Protection) bool {
		ack, _ := s.watch.LastAck(hostB)
		return p.Primary == hostB && p.Phase == "Protected" && ack.At.After(again) && p.LastPoint.TakenAt.After(again)
	})
	require.Greater(t, p.Generation, uint64(3), "the numbers of the try are burnt")
	require.NotContains(t, strings.Fields(s.exec(hostA, "virsh list --name")), s.name)
	require.Regexp(t, `bridge\s+br-dr\s`, s.exec(hostB, "virsh domiflist "+s.name))
}
