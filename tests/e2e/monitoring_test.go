package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/deploy/lab/labkit"
)

// monitoring is a Prometheus and an Alertmanager of Debian in the control host. It knows the guest by one metric of a page
// that the test serves on host-a, as an exporter of the guest's own service would.
const monitoring = `set -e
d=/run/lab/monitoring; rm -rf $d; mkdir -p $d; cd $d
cat >prometheus.yml <<EOF
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [rules.yml]
alerting: {alertmanagers: [{static_configs: [{targets: ['127.0.0.1:9093']}]}]}
scrape_configs:
  - {job_name: orders, static_configs: [{targets: ['host-a:9100']}]}
  - {job_name: understudy, static_configs: [{targets: ['127.0.0.1:7480']}]}
EOF
cat >rules.yml <<EOF
groups: [{name: orders, rules: [{alert: OrdersDown, expr: orders_up == 0, for: 2s, labels: {understudy_vm: %[1]s}, annotations: {summary: the orders service does not answer}}]}]
EOF
cat >alertmanager.yml <<EOF
route: {receiver: understudy, group_wait: 1s, group_interval: 2s, repeat_interval: 5s}
receivers: [{name: understudy, webhook_configs: [{url: 'http://127.0.0.1:7481/webhook/alertmanager', send_resolved: true}]}]
EOF
mount -t tmpfs tmpfs /usr/share # private to this script: Debian's Alertmanager wants its templates there
cp -r %[2]s/../share/prometheus /usr/share/
%[2]s/prometheus-alertmanager --config.file=alertmanager.yml --storage.path=am --web.listen-address=127.0.0.1:9093 --cluster.listen-address= >am.log 2>&1 &
exec %[2]s/prometheus --config.file=prometheus.yml --storage.tsdb.path=tsdb --web.listen-address=127.0.0.1:9090 >prometheus.log 2>&1`

// A real Prometheus sees that the guest's service is down, a real Alertmanager tells Understudy, and the VM moves: once,
// however often the alert is repeated, and not again when it is resolved.
func TestAnAlertOfPrometheusEndsInOneFailover(t *testing.T) {
	long(t)
	root, err := labkit.FindRoot()
	require.NoError(t, err)
	tools := filepath.Join(root, "build", "tools", "usr", "bin")
	if _, err := os.Stat(filepath.Join(tools, "prometheus-alertmanager")); err != nil {
		t.Skip("needs Prometheus and Alertmanager: deploy/setup/fetch-tools prometheus prometheus-alertmanager")
	}
	const rpo = 10 * time.Second
	s := begin(t, "orders", 8*time.Minute, "--workload", "db", "--disk", "512M")
	s.protect("--rpo", rpo.String())
	s.untilSeq(2*time.Minute, 2)

	s.exec(hostA, `mkdir -p /run/lab/page && echo 'orders_up 1' >/run/lab/page/metrics`)
	s.service(hostA, "cd /run/lab/page && exec busybox httpd -f -p 9100")
	s.service("control", fmt.Sprintf(monitoring, s.name, tools))
	s.answers(`http://127.0.0.1:9090/api/v1/query?query=orders_up`, `"orders_up"`, "Prometheus sees the page")
	s.answers(`http://127.0.0.1:9090/api/v1/query?query=understudy_exposure_seconds`, s.name, "Prometheus sees Understudy's own metrics")

	down := time.Now()
	s.exec(hostA, `echo 'orders_up 0' >/run/lab/page/metrics`)
	p := s.until(2*time.Minute, "the failover", func(p labkit.Protection) bool { return p.Primary == hostB })
	require.Contains(t, string(*p.Failover), "OrdersDown", "the history says who asked for it")
	s.recovered(hostA, hostB, down, rpo)

	// The alert goes on firing and is repeated every five seconds; then it resolves. Neither moves the VM again.
	p = s.until(4*time.Minute, "protection in the other direction", func(p labkit.Protection) bool {
		return p.Phase == "Protected" && p.Standby == hostA
	})
	s.exec(hostA, `echo 'orders_up 1' >/run/lab/page/metrics`)
	s.answers(`http://127.0.0.1:9090/api/v1/query?query=ALERTS`, `"result":[]`, "the alert ends")
	s.answers(`http://127.0.0.1:9093/api/v2/alerts`, `[]`, "Alertmanager knows that it ended")
	after := s.until(time.Minute, "the state afterwards", func(labkit.Protection) bool { return true })
	require.Equal(t, hostB, after.Primary)
	require.Equal(t, p.Generation, after.Generation)
}

// answers waits until a page, asked for in the control host, contains a text.
func (s *story) answers(url, text, what string) {
	s.t.Helper()
	var last string
	require.Eventually(s.t, func() bool {
		last, _ = s.lab.Exec(s.ctx, "control", "busybox", "wget", "-q", "-O", "-", url)
		return strings.Contains(last, text)
	}, time.Minute, 500*time.Millisecond, "%s: %s", what, url)
}

// service runs a script in a host until the end of the story; nothing of it outlives that.
func (s *story) service(host, script string) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = s.lab.Exec(ctx, host, "unshare", "--fork", "--pid", "--mount", "--kill-child", "bash", "-c", script)
	}()
	s.repairs = append(s.repairs, func(context.Context) { cancel(); <-done })
}
