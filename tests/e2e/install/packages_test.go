package install

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func decode(t *testing.T, text string, to any) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(text), to), text)
}

// What the packages hold, and what the units name, is there once they are installed.
func (s *site) packagesHoldWhatTheUnitsName(t *testing.T) {
	s.t = t
	s.exec("control", "dpkg --install /run/packages/*.deb")
	require.Contains(t, s.exec("control", "understudy version"), "0.1.0")
	s.exec("control", "understudy-temporal --help 2>&1 | grep -q db-filename")
	for path, mode := range map[string]string{
		"/usr/bin/understudy": "755", "/usr/bin/understudy-temporal": "755", "/etc/understudy": "750",
		"/etc/understudy/server.conf": "640", "/etc/understudy/agent.conf": "640", "/etc/understudy/guard.conf": "640",
		"/usr/share/understudy/prometheus/alerts.yml": "644", "/usr/share/doc/understudy/OPERATIONS.md": "644",
		"/usr/share/bash-completion/completions/understudy": "644", "/usr/share/zsh/vendor-completions/_understudy": "644",
	} {
		require.Equal(t, mode+" root root", strings.TrimSpace(s.exec("control", "stat -c '%a %U %G' "+path)), path)
	}
	for _, unit := range []string{"server", "agent", "guard"} {
		file := "/lib/systemd/system/understudy-" + unit + ".service"
		s.exec("control", `set -e; unit=`+file+`
for key in ExecStart ExecStartPre; do sed -n "s/^$key=[-+]*//p" $unit | while read -r program rest; do test -x "$program"; done; done
test -f "$(sed -n 's/^EnvironmentFile=-//p' $unit)"
test -f "$(sed -n 's/^Documentation=file://p' $unit)"`)
		if _, err := exec.LookPath("systemd-analyze"); err == nil {
			out := s.exec("control", "systemd-analyze verify --man=no "+file+" 2>&1")
			require.NotContains(t, out, "understudy-"+unit, "systemd-analyze verify")
		}
	}
	require.Equal(t, "", strings.TrimSpace(s.exec("control", "ls /run/systemd-log/*.pid 2>/dev/null || true")), "installing starts nothing")

	// An administrator's settings outlive an upgrade; a removal without protected VMs succeeds.
	s.exec("control", "echo UNDERSTUDY_SERVER_IP=10.77.0.1 >>/etc/understudy/server.conf")
	s.exec("control", "dpkg --install "+filepath.Join("/run/packages", filepath.Base(s.newest("understudy"))))
	require.Contains(t, s.exec("control", "tail -n 1 /etc/understudy/server.conf"), "10.77.0.1")
	s.exec("control", "dpkg --purge understudy-temporal understudy && test ! -e /etc/understudy/server.conf")
}
