package e2e

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/deploy/lab/labkit"
)

// The control plane's disk loses Temporal's database; the records beside it are from the backup. The VM runs on all the time,
// and its protection is begun again where it was.
func TestTheLossOfTemporalsDatabaseIsRecoveredFromTheRecords(t *testing.T) {
	s := begin(t, "amnesia", 10*time.Minute, "--workload", "db", "--disk", "512M")
	s.protect("--rpo", "20s", "--tier", "gold", "--keep-last", "6")
	before := s.untilSeq(2*time.Minute, 3)
	s.leased(time.Minute)

	s.run("crash", "control")
	files, err := filepath.Glob(filepath.Join(s.lab.Dir(), "control", "understudy", "server", "*.db*"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, f := range files {
		require.NoError(t, os.Remove(f))
	}
	s.run("boot", "control")
	s.hostsUp()
	s.refused(exitNotFound, "status", s.name)

	out := s.cli("recover")
	require.Contains(t, out, "recovered")
	p := s.until(3*time.Minute, "a point after it", func(p labkit.Protection) bool {
		return p.Phase == "Protected" && p.LastPoint != nil && p.LastPoint.Seq > before.LastPoint.Seq+5
	})
	require.Equal(t, hostA, p.Primary)
	require.Equal(t, before.Generation, p.Generation)
	require.Equal(t, 20.0, p.RPO.Target)
	require.Equal(t, "resync", s.newestOf("resync").Disks[0].Mode)
	require.Contains(t, s.cli("recover"), "runs", "asked again it leaves alone what runs")
	s.until(time.Minute, "both hosts watched again", func(p labkit.Protection) bool {
		return !p.Raised("Unwatched/"+hostA) && !p.Raised("Unwatched/"+hostB)
	})
	s.leased(2 * time.Minute)
	ack, ok := s.watch.LastAck(hostA)
	require.True(t, ok)
	require.Less(t, time.Since(ack.At), 10*time.Second, "the VM wrote on all the time")
}

// newestOf is the newest point whose first disk has this mode.
func (s *story) newestOf(mode string) labkit.Point {
	s.t.Helper()
	points := s.points()
	for i := len(points) - 1; i >= 0; i-- {
		if points[i].Disks[0].Mode == mode {
			return points[i]
		}
	}
	require.Fail(s.t, "no point of mode "+mode)
	return labkit.Point{}
}
