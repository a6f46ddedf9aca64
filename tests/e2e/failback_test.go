package e2e

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/deploy/lab/labkit"
)

// placed is a point with the host whose store has it.
type placed struct {
	labkit.Point
	Host string `json:"host"`
}

// pointsOn lists the points in the store of a host, oldest first.
func (s *story) pointsOn(host string) []placed {
	s.t.Helper()
	var list struct {
		Points []placed `json:"points"`
	}
	out := s.cli("points", "--output", "json", s.name)
	require.NoError(s.t, json.Unmarshal([]byte(out), &list), out)
	var here []placed
	for _, p := range list.Points {
		if p.Host == host {
			here = append(here, p)
		}
	}
	return here
}

// firstOn is the first point of the newest generation in the store of a host.
func (s *story) firstOn(host string) placed {
	s.t.Helper()
	here := s.pointsOn(host)
	require.NotEmpty(s.t, here)
	newest := here[len(here)-1].Generation
	for _, p := range here {
		if p.Generation == newest {
			return p
		}
	}
	return placed{}
}

// rescue is what status says of the disks that were left.
func (s *story) rescue() (disks []string, unreplicated int64) {
	s.t.Helper()
	var st struct {
		Protections []struct {
			Rescue struct {
				Disks        []string `json:"disks"`
				Unreplicated *int64   `json:"unreplicated_bytes"`
			} `json:"rescue"`
		} `json:"protections"`
	}
	out := s.cli("status", "--output", "json", s.name)
	require.NoError(s.t, json.Unmarshal([]byte(out), &st), out)
	r := st.Protections[0].Rescue
	require.NotNil(s.t, r.Unreplicated, out)
	return r.Disks, *r.Unreplicated
}

// The host loses power, the VM lives on the standby for a minute and writes what does not compress. When the host is back,
// what is sent to it is little more than what was written; what it had written itself and nobody else has is shown and kept.
func TestFailbackAfterAMinuteSendsLittleMoreThanWhatChanged(t *testing.T) {
	long(t)
	const rpo = 10 * time.Second
	s := begin(t, "failback", 10*time.Minute, "--workload", "db", "--disk", "512M", "--data-disk", "64M")
	s.fillDisk(hostA, 96<<20)
	s.exec(hostA, "virsh autostart "+s.name) // its host must not start it by itself when it is back
	s.protect("--rpo", rpo.String())
	s.untilSeq(2*time.Minute, 3)
	s.waitAcks(hostA, 10)

	crashed := time.Now()
	s.run("crash", hostA)
	s.until(2*time.Minute, "the failover", func(p labkit.Protection) bool { return p.Primary == hostB })
	loss := s.recovered(hostA, hostB, crashed, rpo)
	s.fillDisk(hostB, 8<<20)
	time.Sleep(max(0, time.Minute-time.Since(crashed)))

	s.run("boot", hostA)
	for range 20 {
		require.NotContains(t, s.exec(hostA, "virsh list --name 2>/dev/null || true"), s.name, "the old copy must not run for a moment")
		time.Sleep(250 * time.Millisecond)
	}
	s.protectedTo(hostB, hostA)
	require.NotContains(t, s.exec(hostA, "virsh list --all --name"), s.name, "the old copy must not run")
	first := s.firstOn(hostA)
	_, changed, sent := first.Sum()
	t.Logf("resync after a minute: %d bytes changed, %d sent, %.3f times as much", changed, sent, float64(sent)/float64(changed))
	require.Equal(t, "resync", first.Disks[0].Mode)
	require.Positive(t, changed)
	require.LessOrEqual(t, float64(sent), 1.2*float64(changed))

	disks, unreplicated := s.rescue()
	require.NotEmpty(t, disks)
	t.Logf("the old host had %d bytes that were in no point; %d rows were lost", unreplicated, loss.RowsLost)
	if loss.RowsLost > 0 {
		require.Positive(t, unreplicated)
		require.Contains(t, s.refused(64, "failback", s.name), "confirmation", "a person is asked")
	}

	s.waitAcks(hostB, 3)
	s.move(hostB, hostA, "failback", "--yes")
	var all, wire int64
	for _, p := range s.pointsOn(hostA) {
		_, c, w := p.Sum()
		all, wire = all+c, wire+w
	}
	t.Logf("until the VM was back: %d bytes changed, %d sent, %.3f times as much", all, wire, float64(wire)/float64(all))
	require.LessOrEqual(t, float64(wire), 1.2*float64(all))
	for _, d := range disks {
		s.exec(hostA, "test -s "+d) // the rescue copy is still there
	}
}
