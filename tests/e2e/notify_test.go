package e2e

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// sink is an HTTP receiver of a few lines: each body becomes a file.
const sink = `mkdir -p /var/lib/understudy/told && cat >/run/lab/sink <<'EOF'
#!/bin/bash
length=0 who=
while IFS= read -r line; do
  line=${line%$'\r'}
  [[ -n $line ]] || break
  case ${line,,} in
    content-length:*) length=${line##*: } ;;
    authorization:*) who=${line#*: } ;;
  esac
done
f=$(mktemp /run/lab/new.XXXXXX)
head -c "$length" >"$f"
[[ $who == "Bearer hush-tok3n" ]] || { printf 'HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n'; exit; }
mv "$f" "/var/lib/understudy/told/$(date +%s%N)"
printf 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n'
EOF
chmod +x /run/lab/sink && exec socat TCP-LISTEN:8099,fork,reuseaddr EXEC:/run/lab/sink`

// message is one of the JSON documents that a webhook gets.
type message struct {
	Process, Host string
	Notifications []struct{ State, Name, VM, Host, Why, Try string }
}

// told lists what the receiver on a host took: "process@host state name vm".
func (s *story) told(host string) []string {
	s.t.Helper()
	files, err := filepath.Glob(filepath.Join(s.lab.Dir(), host, "understudy", "told", "*"))
	require.NoError(s.t, err)
	var out []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		require.NoError(s.t, err)
		var m message
		require.NoError(s.t, json.Unmarshal(b, &m), "%s", b)
		for _, n := range m.Notifications {
			out = append(out, m.Process+"@"+m.Host+" "+n.State+" "+n.Name+" "+n.VM)
			require.NotEmpty(s.t, n.Try)
			require.NotEmpty(s.t, n.Why)
		}
	}
	return out
}

// log is all that the services of a host said.
func (s *story) log(host string) string {
	s.t.Helper()
	files, err := filepath.Glob(filepath.Join(s.lab.Dir(), host, "log", "*.log"))
	require.NoError(s.t, err)
	require.NotEmpty(s.t, files)
	var all strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(f)
		require.NoError(s.t, err)
		all.Write(b)
	}
	return all.String()
}

// Every worker is dead, and Temporal with them. The agent sees by itself that its VM is in no point any more, tells a person, and
// tells when that is over. The receiver stands on the standby, which is all that is left.
func TestWithAllWorkersDeadTheAgentTellsAPerson(t *testing.T) {
	long(t)
	s := begin(t, "alarm", 12*time.Minute, "--workload", "db", "--disk", "512M")
	s.service(hostB, sink)
	s.repair(hostB, "rm", "-rf", "/var/lib/understudy/told")
	s.exec(hostA, `umask 077; echo 'http://bearer:hush-tok3n@host-b:8099/hooks/in-the-path' >/run/lab/notify`)
	s.run("agent-flags", hostA, "--notify-file", "/run/lab/notify")
	s.repairs = append(s.repairs, func(ctx context.Context) {
		_, _ = s.lab.Run(ctx, "agent-flags", hostA)
		_, _ = s.lab.Exec(ctx, hostA, "pkill", "-9", "-f", "[u]nderstudy agent")
		if err := s.lab.WaitHosts(ctx, 2); err != nil {
			s.t.Errorf("the agent without receivers: %v", err)
		}
	})
	s.killService(hostA, "understudy agent")
	require.NoError(t, s.lab.WaitHosts(s.ctx, 2))
	require.Contains(t, s.exec(hostA, `understudy=$(ls -d /proc/[0-9]*/exe | while read -r e; do readlink "$e"; done | grep '/understudy$' | head -n1); "$understudy" notify test --notify-file /run/lab/notify`), "delivered")

	s.protect("--rpo", "30s")
	s.untilSeq(2*time.Minute, 3)
	require.Contains(t, s.told(hostB)[0], "test Test")

	t.Cleanup(func() { // before the lab is tidied up
		if t.Failed() {
			t.Logf("told:\n%s", strings.Join(s.told(hostB), "\n"))
		}
	})
	s.run("crash", "control")
	dead := time.Now()
	violated, lost := "agent@host-a firing RPOViolated alarm", "agent@host-a firing ControlPlaneLost "
	s.eventually(2*time.Minute, "the exposure to be told", func() bool { return strings.Contains(strings.Join(s.told(hostB), "\n"), violated) })
	t.Logf("the exposure was told %s after the control plane died, at a target of 30 s", time.Since(dead).Round(time.Second))
	s.eventually(3*time.Minute, "the loss of the control plane to be told", func() bool { return strings.Contains(strings.Join(s.told(hostB), "\n"), lost) })
	require.False(t, s.controlLives(), "nobody else could have told it")

	s.run("boot", "control")
	s.hostsUp()
	s.eventually(4*time.Minute, "the end to be told", func() bool {
		all := strings.Join(s.told(hostB), "\n")
		return strings.Contains(all, "resolved RPOViolated alarm") && strings.Contains(all, "resolved ControlPlaneLost")
	})
	all := s.told(hostB)
	for _, once := range []string{violated, lost} {
		require.Equal(t, 1, strings.Count(strings.Join(all, "\n"), once), "%s in\n%s", once, strings.Join(all, "\n"))
	}
	s.secretsAreNowhere("hush-tok3n", "in-the-path")
}

func (s *story) controlLives() bool {
	out, err := s.lab.Run(s.ctx, "power", "control")
	return err == nil && strings.TrimSpace(out) == "on"
}
