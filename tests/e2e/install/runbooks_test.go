package install

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// repack gives a package the version of a later one, and server.conf a setting more, which is when dpkg asks about the file.
const repack = `set -e
rm -rf /run/repack; dpkg-deb -R "$1" /run/repack
sed -i 's/^Version: .*/Version: 99.0.0/' /run/repack/DEBIAN/control
f=/run/repack/etc/understudy/server.conf; [ ! -e $f ] || echo '#UNDERSTUDY_SERVER_OF_LATER=' >>$f
mkdir -p /run/next; dpkg-deb -Znone -b /run/repack /run/next/understudy_99.0.0_amd64.deb >/dev/null; rm -rf /run/repack`

// The lines of docs/OPERATIONS.md upgrade a site whose VM goes on, and bring its control plane back from a backup.
func (s *site) runbooks(t *testing.T, ask string) {
	s.t = t
	guide := filepath.Join(s.root, "docs", "OPERATIONS.md")
	run := func(host, at string, lines ...string) {
		t.Helper()
		for _, l := range lines {
			l = strings.NewReplacer("/var/backups/", "/run/packages/").Replace(l)
			t.Logf("%-8s %s\n%s", host, l, s.exec(host, ask[:strings.LastIndex(ask, ";")+1]+" cd "+at+" && "+l))
		}
	}

	upgrade := blocks(t, guide, "Upgrade")
	require.Len(t, upgrade, 2)
	for _, h := range []string{"control", hostA, hostB} {
		s.exec(h, repack, "/run/packages/"+filepath.Base(s.newest("understudy")))
	}
	s.exec("control", "cp /run/packages/understudy-temporal_*.deb /run/next/")
	before := s.newestPoint(ask)
	run("control", "/run/next", upgrade[0]...)
	run(hostB, "/run/next", upgrade[1]...)
	run(hostA, "/run/next", upgrade[1]...)
	require.Contains(t, s.exec("control", "dpkg-query -W understudy understudy-temporal; ls /etc/understudy"), "server.conf.dpkg-dist")
	require.Contains(t, s.exec("control", "cat /etc/understudy/server.conf"), "\nUNDERSTUDY_SERVER_TLS_DIR=", "what ca setup wrote stays")
	s.protectedAfter(ask, before)

	loss := blocks(t, guide, "Backup and loss of the control plane")
	require.Len(t, loss, 4, "backup, file lost, database lost, machine lost")
	run("control", "/run", loss[0]...)
	before = s.newestPoint(ask)
	run("control", "/run", loss[1]...)
	s.protectedAfter(ask, before)

	s.exec("control", "systemctl stop understudy-server; rm -rf /var/lib/understudy/server /etc/understudy; dpkg --purge understudy-temporal understudy")
	s.exec("control", "cp /run/packages/understudy.tgz /run/next/")
	before++
	run("control", "/run/next", loss[3]...)
	s.protectedAfter(ask, before)
}

// blocks are the lines of each code block of a section.
func blocks(t *testing.T, path, section string) [][]string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	_, rest, ok := strings.Cut(string(b), "\n## "+section+"\n")
	require.True(t, ok, "%s has no section %q", path, section)
	rest, _, _ = strings.Cut(rest, "\n## ")
	var all [][]string
	for i, block := range strings.Split(rest, "```") {
		if i%2 == 0 {
			continue
		}
		var lines []string
		for l := range strings.Lines(block) {
			l, _, _ = strings.Cut(l, " #")
			if l = strings.TrimSpace(l); l != "" {
				lines = append(lines, l)
			}
		}
		all = append(all, lines)
	}
	return all
}

type pointsOf struct {
	Points []struct {
		Seq int `json:"seq"`
	} `json:"points"`
}

func (s *site) newestPoint(ask string) (seq int) {
	s.t.Helper()
	var out pointsOf
	decode(s.t, s.exec("control", ask+"points -o json db1"), &out)
	for _, p := range out.Points {
		seq = max(seq, p.Seq)
	}
	return seq
}

// protectedAfter waits for a point that is newer than that one, and for nothing that a person should look at.
func (s *site) protectedAfter(ask string, seq int) {
	s.t.Helper()
	var out string
	for end := time.Now().Add(3 * time.Minute); ; time.Sleep(time.Second) {
		var err error
		out, err = s.try("control", ask+"status")
		if err == nil && strings.Contains(out, "Protected") && !strings.Contains(out, "alert") && s.newestPoint(ask) > seq {
			return
		}
		require.True(s.t, time.Now().Before(end), "not protected with a point after %d: %s", seq, out)
	}
}
