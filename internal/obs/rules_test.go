package obs

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

var metricName = regexp.MustCompile(`understudy_\w+`)

func exported() map[string]bool {
	ch := make(chan prometheus.Metric, 200)
	Write(ch, everything(), start)
	close(ch)
	names := map[string]bool{}
	for m := range ch {
		names[metricName.FindString(m.Desc().String())] = true
	}
	return names
}

func TestAlertRulesNameOnlyMetricsThatExist(t *testing.T) {
	b, err := os.ReadFile("../../deploy/prometheus/alerts.yml")
	require.NoError(t, err)
	var file struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	require.NoError(t, yaml.Unmarshal(b, &file))
	names := exported()
	require.Len(t, file.Groups, 1)
	tested, err := os.ReadFile("../../deploy/prometheus/alerts_test.yml")
	require.NoError(t, err)
	for _, r := range file.Groups[0].Rules {
		require.Regexp(t, "^Understudy", r.Alert)
		require.Contains(t, string(tested), "alertname: "+r.Alert+",", "a rule without a test")
		for _, name := range metricName.FindAllString(r.Expr, -1) {
			require.True(t, names[name], "%s names %s", r.Alert, name)
		}
	}
}

// promtool is not installed but unpacked by deploy/setup/fetch-tools: installing it would start a Prometheus.
func TestTheAlertRulesFireWhenTheyShould(t *testing.T) {
	promtool, err := filepath.Abs("../../build/tools/usr/bin/promtool")
	require.NoError(t, err)
	if _, err := os.Stat(promtool); err != nil {
		t.Skip("needs promtool: deploy/setup/fetch-tools prometheus")
	}
	out, err := exec.CommandContext(t.Context(), promtool, "test", "rules", "../../deploy/prometheus/alerts_test.yml").CombinedOutput()
	require.NoError(t, err, string(out))
}

func TestTheDashboardShowsOnlyMetricsThatExist(t *testing.T) {
	b, err := os.ReadFile("../../deploy/grafana/understudy.json")
	require.NoError(t, err)
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	require.NoError(t, json.Unmarshal(b, &board))
	names := exported()
	shown := 0
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			for _, name := range metricName.FindAllString(target.Expr, -1) {
				require.True(t, names[name], "panel %q shows %s", p.Title, name)
				shown++
			}
		}
	}
	require.Greater(t, shown, 15)
}
