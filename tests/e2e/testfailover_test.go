package e2e

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/deploy/lab/labkit"
)

type tested struct {
	Passed    bool    `json:"passed"`
	RTO       float64 `json:"rto_s"`
	Answered  string  `json:"answered"`
	Detail    string  `json:"detail"`
	CleanedUp bool    `json:"cleaned_up"`
	Seq       uint64  `json:"seq"`
}

// noTestLeft waits until nothing of a test failover is on the host.
func (s *story) noTestLeft(host string) {
	s.t.Helper()
	s.exec(host, `timeout 60 sh -c 'until ! virsh list --all --name | grep -q -- -test- && ! ls -d /var/lib/understudy/replicas/*/active/test-* /var/lib/understudy/tests/* 2>/dev/null | grep -q .; do sleep 0.2; done'`)
}

// A point boots in isolation while the VM lives and is replicated; then nothing of it is left.
func TestATestFailoverBootsAPointBesideTheLivingVM(t *testing.T) {
	s := begin(t, "drill", 8*time.Minute, "--workload", "db", "--disk", "512M", "--data-disk", "64M")
	s.protect("--rpo", "10s")
	s.untilSeq(2*time.Minute, 2)
	seq := s.newest().Seq
	began := time.Now()
	out := s.cli("test-failover", "--output", "json", s.name)
	var r tested
	require.NoError(t, json.Unmarshal([]byte(out), &r), out)
	require.True(t, r.Passed && r.CleanedUp, out)
	t.Logf("test failover of point %d: %s after %.2f s (%s)", r.Seq, r.Answered, r.RTO, r.Detail)
	s.noTestLeft(hostB)
	s.until(time.Minute, "points beside it", func(p labkit.Protection) bool { return p.LastPoint.Seq > seq && p.LastPoint.TakenAt.After(began) })
	var st struct {
		Protections []struct {
			LastTest tested `json:"last_test"`
		} `json:"protections"`
	}
	require.NoError(t, json.Unmarshal([]byte(s.cli("status", "--output", "json", s.name)), &st))
	require.Equal(t, r.RTO, st.Protections[0].LastTest.RTO)
	require.NotContains(t, s.exec(hostB, "virsh list --all --name"), s.name)
}

// The agent dies while the copy runs: the copy is taken away when it is back, and the test says that it failed or was done.
func TestATestFailoverWhoseAgentDiesLeavesNothing(t *testing.T) {
	long(t)
	s := begin(t, "drilldies", 6*time.Minute, "--workload", "idle", "--disk", "256M")
	s.protect("--rpo", "30s")
	s.cli("test-failover", "--wait=false", s.name)
	s.exec(hostB, `timeout 30 sh -c 'until virsh list --name | grep -q -- -test-; do sleep 0.05; done'`)
	s.killService(hostB, "understudy agent")
	s.noTestLeft(hostB)
	s.until(2*time.Minute, "the end of the test", func(labkit.Protection) bool {
		var st struct {
			Protections []struct {
				LastTest *tested `json:"last_test"`
			} `json:"protections"`
		}
		require.NoError(t, json.Unmarshal([]byte(s.cli("status", "--output", "json", s.name)), &st))
		return st.Protections[0].LastTest != nil
	})
	s.noTestLeft(hostB)
	out := s.cli("test-failover", "--output", "json", s.name)
	require.Contains(t, out, `"passed": true`, "the next one works")
}
