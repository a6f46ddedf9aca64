package obs

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/model"
)

type played struct{ err error }

var start = time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)

func (p *played) List(context.Context) ([]contract.DescribeOut, error) {
	return []contract.DescribeOut{{Spec: contract.ProtectSpec{VM: model.VMRef{Name: "db1", UUID: "u"}}, State: contract.ProtectState{
		Policy: model.DefaultPolicy(), Phase: model.PhaseProtected, Unreplicated: &start, Alerts: []contract.Alert{{Name: contract.AlertVMDown}},
	}}}, p.err
}

func (p *played) Hosts(context.Context) ([]contract.HostWatchState, error) {
	return []contract.HostWatchState{{Facts: model.HostFacts{Host: "host-a"}, Silent: true, Protections: []string{"u"}}}, nil
}

func TestExposureGrowsWhenNobodyAnswers(t *testing.T) {
	p, now := &played{}, start.Add(4*time.Second)
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(NewCollector(p, func() time.Time { return now }))
	value := func(name string) float64 {
		families, err := r.Gather()
		require.NoError(t, err)
		for _, f := range families {
			if f.GetName() == name {
				return f.GetMetric()[0].GetGauge().GetValue()
			}
		}
		t.Fatal(name)
		return 0
	}
	require.Equal(t, 1.0, value("understudy_control_up"))
	require.Equal(t, 1.0, value("understudy_host_silent"))
	require.Equal(t, 4.0, value("understudy_exposure_seconds"))
	p.err, now = errors.New("gone"), start.Add(60*time.Second)
	require.Equal(t, 0.0, value("understudy_control_up"))
	require.Equal(t, 60.0, value("understudy_exposure_seconds"))
}
