package obs

import (
	"bytes"
	"flag"
	"os"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/model"
)

var update = flag.Bool("update", false, "write the golden file anew")

// everything is a state in which each metric has something to say.
func everything() State {
	ended := start.Add(8 * time.Second)
	return State{
		Up: true, Version: "1.0.0", CertificateEnd: ended, Notify: &model.NotifyFacts{Receivers: 2, Delivered: 5, Dropped: 2},
		Hosts: []contract.HostWatchState{{Facts: model.HostFacts{
			Host: "host-a", AgentVersion: "0.9.0", StoreFree: 1 << 30, StoreTotal: 4 << 30, Terms: model.DefaultTerms(2), Late: []string{"db1"}, CertificateEnd: &ended,
			Load: &model.HostLoad{CPU: 0.5, LinkUse: 0.25}, Notify: &model.NotifyFacts{Receivers: 1, Delivered: 3, Failed: 1},
		}, FalseAlarms: 1}},
		Protections: []contract.DescribeOut{{Spec: contract.ProtectSpec{VM: model.VMRef{Name: "db1", UUID: "8a3c1d6e-0f5b-4c7a-9d2e-1b6f5a4c3d2e"}}, State: contract.ProtectState{
			Policy: model.DefaultPolicy(), Phase: model.PhaseProtected, StandbyReady: true, Unreplicated: &start, Points: 7, Generation: 2,
			Cadence: model.Cadence{Interval: 12 * time.Second}, Observed: &model.Observation{At: start, DirtyBytes: 1 << 20, Memory: &model.MemoryRate{BytesPerSecond: 3 << 20, At: start}},
			Recent: []contract.PointSummary{{TakenAt: start.Add(-20 * time.Second), CycleMS: 950, ReplicateMS: 400, StallMS: 12}},
			Totals: contract.Totals{Cycles: 9, Skipped: 3, SentBytes: 5000, DirtyBytes: 70000, Failures: 2, VerifyFailures: 1, Reseeds: 1, Violations: 1},
			Alerts: []contract.Alert{{Name: contract.AlertVMDown}},
			Failover: &contract.FailoverBrief{StartedAt: start, EndedAt: &ended, Outcome: contract.OutcomeDone, Result: &contract.FailoverOut{
				Steps: []contract.FailoverStep{{Name: "start", Took: time.Second}, {Name: "start", Took: 2 * time.Second}}, UndoFailed: []string{"hand back"},
			}},
		}}},
	}
}

type whole struct{ State }

func (whole) Describe(chan<- *prometheus.Desc)      {}
func (w whole) Collect(ch chan<- prometheus.Metric) { Write(ch, w.State, start.Add(10*time.Second)) }

// Names, labels and help are a contract with dashboards and rules of people: they are added to, and not renamed.
func TestTheExpositionIsAContract(t *testing.T) {
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(whole{everything()})
	families, err := r.Gather()
	require.NoError(t, err)
	var b bytes.Buffer
	enc := expfmt.NewEncoder(&b, expfmt.NewFormat(expfmt.TypeTextPlain))
	for _, f := range families {
		require.NoError(t, enc.Encode(f))
	}
	if *update {
		require.NoError(t, os.WriteFile("testdata/metrics.golden", b.Bytes(), 0o644))
	}
	want, err := os.ReadFile("testdata/metrics.golden")
	require.NoError(t, err)
	require.Equal(t, string(want), b.String(), "go test ./internal/obs -update")
}
