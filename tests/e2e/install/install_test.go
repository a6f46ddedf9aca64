// Package install tests the packages as an administrator meets them: on lab hosts that have libvirt and nothing of ours.
package install

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/deploy/lab/labkit"
)

const (
	hostA = "host-a"
	hostB = "host-b"
	// limit and most are the promise of docs/PERFORMANCE.md.
	limit = 2 * time.Minute
	most  = 6
)

// private gives a lab host folders of its own where a package is installed; they vanish with its power.
const private = `set -e
d=/run/install; mkdir -p $d; mount -t tmpfs tmpfs $d
for f in usr etc var/lib/dpkg var/lib/apt var/cache/apt var/log/apt; do
  mkdir -p $d/$f/up $d/$f/work /$f
  mount -t overlay overlay -o lowerdir=/$f,upperdir=$d/$f/up,workdir=$d/$f/work $d/$f
done
cat /etc/hosts >$d/hosts
[ "$1" = control ] || { mkdir $d/libvirt; mount --rbind /etc/libvirt $d/libvirt; }
for f in usr etc var/lib/dpkg var/lib/apt var/cache/apt var/log/apt; do mount --rbind $d/$f /$f; done
mount --bind $d/hosts /etc/hosts
if [ "$1" = control ]; then rm -rf /etc/libvirt; else mount --rbind $d/libvirt /etc/libvirt; fi
touch $d/dpkg.log; mount --bind $d/dpkg.log /var/log/dpkg.log
install -m 755 "$2" /usr/bin/systemctl # apt gives scripts a PATH without /usr/local
mkdir -p /run/systemd/system /run/packages`

type site struct {
	t    *testing.T
	ctx  context.Context
	lab  *labkit.Lab
	root string
}

// raise is a lab with libvirt only, where each host can have packages of its own.
func raise(t *testing.T) *site {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: the lab makes network namespaces and starts libvirtd")
	}
	for _, tool := range []string{"libvirtd", "qemu-system-x86_64", "ip", "socat", "dpkg", "apt-get", "make"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs " + tool + ": run make deps")
		}
	}
	root, err := labkit.FindRoot()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	t.Cleanup(cancel)
	s := &site{t: t, ctx: ctx, root: root, lab: labkit.Open(root, cmp.Or(os.Getenv("E2E_LAB"), "install"))}
	if os.Getenv("E2E_PACKAGES") != "kept" { // those of an earlier run, to save minutes
		out, err := exec.CommandContext(ctx, "make", "-C", root, "package").CombinedOutput()
		if err != nil && strings.Contains(string(out), "goreleaser") {
			t.Skipf("nfpm cannot be had here: %s", out)
		}
		require.NoError(t, err, "%s", out)
	}
	if os.Getenv("KEEP") == "" {
		t.Cleanup(func() {
			downCtx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			_, _ = s.lab.Run(downCtx, "down")
		})
	}
	_, err = s.lab.Run(ctx, "up", "--fresh", "--hosts", "2")
	require.NoError(t, err)
	for _, h := range []string{"control", hostA, hostB} {
		s.exec(h, private, h, filepath.Join(root, "tests", "e2e", "install", "systemctl"))
		s.exec(h, "cp "+s.newest("understudy")+" /run/packages/")
	}
	s.exec("control", "cp "+s.newest("understudy-temporal")+" /run/packages/")
	return s
}

// newest is the package that make just made.
func (s *site) newest(name string) string {
	s.t.Helper()
	found, err := filepath.Glob(filepath.Join(s.root, "build", name+"_*.deb"))
	require.NoError(s.t, err)
	require.NotEmpty(s.t, found)
	var best string
	var at time.Time
	for _, f := range found {
		info, err := os.Stat(f)
		require.NoError(s.t, err)
		if info.ModTime().After(at) {
			best, at = f, info.ModTime()
		}
	}
	return best
}

func (s *site) exec(host, script string, args ...string) string {
	s.t.Helper()
	out, err := s.try(host, script, args...)
	require.NoError(s.t, err, "%s: %s\n%s", host, script, out)
	return out
}

func (s *site) try(host, script string, args ...string) (string, error) {
	return s.lab.Exec(s.ctx, host, append([]string{"env", "-u", "UNDERSTUDY_TLS_DIR", "-u", "UNDERSTUDY_TEMPORAL_ADDRESS", "-C", "/run", "bash", "-c", script, "sh"}, args...)...)
}

// fenced are the lines of the code blocks of a section of a document.
func fenced(t *testing.T, path, section string) []string {
	t.Helper()
	return slices.Concat(blocks(t, path, section)...)
}

func TestPackagesOnHostsThatHaveNothingOfOurs(t *testing.T) {
	s := raise(t)
	t.Run("hold what the units name", s.packagesHoldWhatTheUnitsName)
	t.Run("six commands protect a VM", s.sixCommandsProtectAVM)
}

// The lines of docs/INSTALL.md protect a VM of 1 GiB.
func (s *site) sixCommandsProtectAVM(t *testing.T) {
	s.t = t
	lines := fenced(t, filepath.Join(s.root, "docs", "INSTALL.md"), "Six commands")
	require.LessOrEqual(t, len(lines), most, "commands that a person learns: %q", lines)
	require.Len(t, lines, 6)
	readme := fenced(t, filepath.Join(s.root, "README.md"), "Use it")
	require.Equal(t, lines, readme[:len(lines)], "README.md gives the same lines")
	_, err := s.lab.Run(s.ctx, "guest", hostA, "db1", "--disk", "1G", "--memory", "192", "--workload", "db")
	require.NoError(t, err)

	lab := strings.NewReplacer("10.0.0.5", "10.77.0.1", "kvm1", hostA, "kvm2", hostB)
	typed := 0
	run := func(host, line string) string {
		typed++
		from := time.Now()
		out := s.exec(host, "cd /run/packages && "+lab.Replace(line))
		t.Logf("%-8s %5.1f s  %s", host, time.Since(from).Seconds(), line)
		return out
	}
	began := time.Now()
	for _, h := range []string{"control", hostA, hostB} {
		run(h, lines[0])
	}
	joins := strings.Split(strings.TrimSpace(run("control", lines[1])), "\n")
	require.Len(t, joins, 2)
	run("control", lines[2])
	shape := regexp.MustCompile(`^understudy join --server \S+:7461 --token \S+$`)
	require.Regexp(t, shape, lines[3], "the document shows what setup prints")
	s.waitPort("control", "10.77.0.1:7461")
	for i, h := range []string{hostA, hostB} {
		require.Regexp(t, shape, joins[i])
		run(h, joins[i])
		run(h, lines[4])
	}
	run("control", lines[5])
	took := time.Since(began)

	var points struct {
		Points []struct {
			VerifiedAt time.Time `json:"verified_at"`
		} `json:"points"`
	}
	ask := "export UNDERSTUDY_TEMPORAL_ADDRESS=10.77.0.1:7233 UNDERSTUDY_TLS_DIR=/etc/understudy/operator; understudy "
	decode(t, s.exec("control", ask+"points -o json db1"), &points)
	require.NotEmpty(t, points.Points)
	t.Logf("%d commands, typed %d times on three machines, %.0f s from the first apt install to the first verified point of 1 GiB", len(lines), typed, took.Seconds())
	require.Less(t, took, limit)

	// libvirtd was restarted for the gate that the package installed; on a busy machine it answers late.
	require.Eventually(t, func() bool {
		out, _ := s.try("control", ask+"doctor")
		return regexp.MustCompile(hostA+`\s+start gate\s+ok`).MatchString(out) && regexp.MustCompile(hostB+`\s+start gate\s+ok`).MatchString(out)
	}, 2*time.Minute, time.Second, "the gate is called by libvirtd")
	s.runbooks(t, ask)
	s.removal(ask)
}

// removal: a host that still protects VMs keeps its guard; afterwards everything goes.
func (s *site) removal(ask string) {
	s.t.Helper()
	out, err := s.try(hostA, "dpkg --remove understudy 2>&1")
	require.Error(s.t, err)
	require.Contains(s.t, out, "still protected")
	s.exec(hostA, "test -x /usr/bin/understudy && test -S /run/understudy/guard.sock")
	s.exec("control", ask+"unprotect --yes --purge db1")
	s.exec(hostA, "for i in $(seq 60); do dpkg --remove understudy && exit; sleep 1; done; exit 1")
	s.exec(hostA, "test ! -e /usr/bin/understudy && test ! -e /etc/libvirt/hooks/qemu.d/50-understudy && test -e /etc/understudy/agent.conf && ! pgrep -x understudy")
}

func (s *site) waitPort(host, address string) {
	s.t.Helper()
	at, port, _ := strings.Cut(address, ":")
	s.exec(host, fmt.Sprintf("for i in $(seq 300); do (exec 3<>/dev/tcp/%s/%s) 2>/dev/null && exit; sleep 0.1; done; exit 1", at, port))
}
