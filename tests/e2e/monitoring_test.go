package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
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
groups:
  - name: orders
    rules:
      - {alert: OrdersDown, expr: orders_up == 0, for: 2s, labels: {understudy_vm: %[1]s, severity: critical, team: storage}, annotations: {summary: the orders service does not answer}}
      - {alert: OrdersSlow, expr: orders_slow == 1, labels: {understudy_vm: %[1]s, severity: critical, team: web}, annotations: {summary: the orders service is slow}}
      - {alert: OrdersOdd, expr: orders_slow == 1, labels: {understudy_vm: %[1]s, severity: warning, team: storage}, annotations: {summary: the orders service is odd}}
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
	const rpo = 10 * time.Second
	s := monitored(t, "orders", rpo)
	s.answers(`http://127.0.0.1:9090/api/v1/query?query=understudy_exposure_seconds`, s.name, "Prometheus sees Understudy's own metrics")

	down := time.Now()
	s.page("0", "0")
	p := s.until(2*time.Minute, "the failover", func(p labkit.Protection) bool { return p.Primary == hostB })
	require.Contains(t, string(*p.Failover), "OrdersDown", "the history says who asked for it")
	s.recovered(hostA, hostB, down, rpo)

	// The alert goes on firing and is repeated every five seconds; then it resolves. Neither moves the VM again.
	p = s.until(4*time.Minute, "protection in the other direction", func(p labkit.Protection) bool {
		return p.Phase == "Protected" && p.Standby == hostA
	})
	s.page("1", "0")
	s.answers(`http://127.0.0.1:9090/api/v1/query?query=ALERTS`, `"result":[]`, "the alert ends")
	s.answers(`http://127.0.0.1:9093/api/v2/alerts`, `[]`, "Alertmanager knows that it ended")
	after := s.until(time.Minute, "the state afterwards", func(labkit.Protection) bool { return true })
	require.Equal(t, hostB, after.Primary)
	require.Equal(t, p.Generation, after.Generation)
}

// Label rules say which alerts mean a dead VM: others name the VM too, fire for long, and move nothing.
func TestOnlyAnAlertThatTheLabelRulesWantEndsInAFailover(t *testing.T) {
	long(t)
	const rpo = 10 * time.Second
	s := monitored(t, "ruled", rpo)
	s.run("server-flags", "--webhook-match", "severity=critical", "--webhook-match", "team=storage")
	s.repairs = append(s.repairs, func(ctx context.Context) {
		_, _ = s.lab.Run(ctx, "server-flags")
		_, _ = s.lab.Exec(ctx, "control", "pkill", "-9", "-f", "[u]nderstudy server")
		if err := s.lab.WaitHosts(ctx, 2); err != nil {
			s.t.Errorf("the server without rules: %v", err)
		}
	})
	s.killService("control", "understudy server")
	s.until(2*time.Minute, "the server with its rules", func(p labkit.Protection) bool { return p.Phase == "Protected" })

	s.page("1", "1")
	s.answers(`http://127.0.0.1:9093/api/v2/alerts`, `OrdersSlow`, "an alert of another team reaches Alertmanager")
	s.answers(`http://127.0.0.1:9093/api/v2/alerts`, `OrdersOdd`, "and one that is no matter of life")
	s.eventually(time.Minute, "both to be judged", func() bool {
		log := s.log("control")
		ignored := func(alert string) bool {
			return regexp.MustCompile("alert=" + alert + " .*outcome=ignored").MatchString(log)
		}
		return ignored("OrdersSlow") && ignored("OrdersOdd")
	})
	before := s.until(time.Minute, "the state under them", func(labkit.Protection) bool { return true })
	require.Equal(t, hostA, before.Primary)
	require.EqualValues(t, 1, before.Generation)

	down := time.Now()
	s.page("0", "1")
	p := s.until(2*time.Minute, "the failover", func(p labkit.Protection) bool { return p.Primary == hostB })
	require.Contains(t, string(*p.Failover), "OrdersDown")
	s.recovered(hostA, hostB, down, rpo)
}

// monitored is a protected guest whose service Prometheus watches.
func monitored(t *testing.T, name string, rpo time.Duration) *story {
	root, err := labkit.FindRoot()
	require.NoError(t, err)
	tools := filepath.Join(root, "build", "tools", "usr", "bin")
	if _, err := os.Stat(filepath.Join(tools, "prometheus-alertmanager")); err != nil {
		t.Skip("needs Prometheus and Alertmanager: deploy/setup/fetch-tools prometheus prometheus-alertmanager")
	}
	s := begin(t, name, 8*time.Minute, "--workload", "db", "--disk", "512M")
	s.protect("--rpo", rpo.String())
	s.untilSeq(2*time.Minute, 2)
	s.page("1", "0")
	s.service(hostA, "cd /run/lab/page && exec busybox httpd -f -p 9100")
	s.service("control", fmt.Sprintf(monitoring, s.name, tools))
	s.answers(`http://127.0.0.1:9090/api/v1/query?query=orders_up`, `"orders_up"`, "Prometheus sees the page")
	return s
}

// page is what the guest's service says of itself.
func (s *story) page(up, slow string) {
	s.t.Helper()
	s.exec(hostA, fmt.Sprintf("mkdir -p /run/lab/page && printf 'orders_up %s\\norders_slow %s\\n' >/run/lab/page/new && mv /run/lab/page/new /run/lab/page/metrics", up, slow))
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
