package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/deploy/lab/labkit"
)

// Scenario 48, with as many guests as this machine carries: the host of all of them dies, its fence device with it. Each is outlasted,
// and all at one time: the last one waits no longer than the first.
func TestGuestsOfADeadHostAreOutlastedTogether(t *testing.T) {
	long(t)
	const n, wait = 5, 22.0
	guests := []string{"--workload", "idle", "--disk", "64M", "--memory", "128"}
	s := begin(t, "fleet0", 15*time.Minute, guests...)
	all := []*story{s}
	for i := 1; i < n; i++ {
		name := fmt.Sprintf("fleet%d", i)
		w, err := s.lab.Watch(name, hostA, hostB)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, w.Close()) })
		other := &story{t: t, ctx: s.ctx, lab: s.lab, name: name, watch: w}
		t.Cleanup(other.end)
		s.run("guest", append([]string{hostA, name}, guests...)...)
		other.waitLine(hostA, time.Time{}, "READY")
		all = append(all, other)
	}
	for _, g := range all {
		g.protect("--rpo", "60s")
		g.leased(time.Minute)
	}
	s.fenceFault(hostA)
	crashed := time.Now()
	s.run("crash", hostA)
	first, last := time.Hour, time.Duration(0)
	for _, g := range all {
		p := g.until(3*time.Minute, "the failover of "+g.name, func(p labkit.Protection) bool { return p.Primary == hostB })
		lease := stepOf(p, "lease")
		require.Empty(t, lease.Error)
		require.GreaterOrEqual(t, lease.Took, wait-1) // it counts from the seal, just before
		proved := lease.At.Add(time.Duration(lease.Took * float64(time.Second))).Sub(crashed)
		first, last = min(first, proved), max(last, proved)
	}
	t.Logf("the lease of the first was outlasted %.1f s after the crash, that of the last of %d after %.1f s", first.Seconds(), n, last.Seconds())
	require.Less(t, last-first, 10*time.Second, "one after the other it would be %d times W", n)
	s.run("fence-fault", hostA, "--off")
	s.run("boot", hostA)
}
