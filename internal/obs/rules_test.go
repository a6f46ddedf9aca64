package obs

import (
	"os"
	"regexp"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"understudy/internal/contract"
	"understudy/internal/model"
)

func TestAlertRulesNameOnlyMetricsThatExist(t *testing.T) {
	b, err := os.ReadFile("../../deploy/prometheus/alerts.yml")
	require.NoError(t, err)
	var file struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	require.NoError(t, yaml.Unmarshal(b, &file))
	full := State{Up: true, Hosts: []contract.HostWatchState{{}}, Protections: []contract.DescribeOut{{State: contract.ProtectState{
		Policy: model.DefaultPolicy(), Recent: []contract.PointSummary{{}}, Alerts: []contract.Alert{{}},
		Failover: &contract.FailoverBrief{EndedAt: &start},
	}}}}
	ch := make(chan prometheus.Metric, 100)
	Write(ch, full, start)
	close(ch)
	exported := map[string]bool{}
	for m := range ch {
		exported[regexp.MustCompile(`understudy_\w+`).FindString(m.Desc().String())] = true
	}
	require.Len(t, file.Groups, 1)
	for _, r := range file.Groups[0].Rules {
		require.Regexp(t, "^Understudy", r.Alert)
		for _, name := range regexp.MustCompile(`understudy_\w+`).FindAllString(r.Expr, -1) {
			require.True(t, exported[name], "%s names %s", r.Alert, name)
		}
	}
}
