package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestASiteGetsItsAuthorityAndItsCertificates(t *testing.T) {
	d := sit(t)
	d.now = time.Now
	dir := t.TempDir()
	ca, tls := filepath.Join(dir, "ca"), filepath.Join(dir, "tls")
	require.Zero(t, d.run("ca", "init", "--ca-dir", ca, "--name", "example"), d.stderr.String())
	require.Equal(t, exitConflict, d.run("ca", "init", "--ca-dir", ca), "an authority is not replaced")
	require.Zero(t, d.run("ca", "issue", "--ca-dir", ca, "--out", tls, "--address", "10.0.0.7", "--output", "json", "host", "kvm1"), d.stderr.String())
	v := d.answer(t)
	require.Equal(t, "understudy://host/kvm1", v["identity"])
	require.Equal(t, []any{"kvm1", "10.0.0.7"}, v["names"])
	for name, mode := range map[string]os.FileMode{"tls.key": 0o600, "tls.crt": 0o600, "ca.crt": 0o600} {
		info, err := os.Stat(filepath.Join(tls, name))
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode().Perm(), name)
	}
	require.Zero(t, d.run("ca", "renew", "--ca-dir", ca, "--output", "json", tls), d.stderr.String())
	require.NotEqual(t, v["serial"], d.answer(t)["serial"])
	require.Zero(t, d.run("ca", "show", "--ca-dir", ca))
	require.Contains(t, d.stdout.String(), "authority")
	require.Zero(t, d.run("ca", "token", "--ca-dir", ca, "kvm2"), d.stderr.String())
	require.True(t, strings.HasPrefix(d.stdout.String(), "us1."))
	require.Zero(t, d.dialed, "the control plane is not asked")

	require.Equal(t, exitUsage, d.run("ca", "issue", "--ca-dir", ca, "--out", tls, "host", "../x"))
	require.Equal(t, exitUsage, d.run("ca", "issue", "--ca-dir", ca, "host", "kvm1"))
	require.Equal(t, exitUsage, d.run("ca"))
	require.Equal(t, exitNotFound, d.run("ca", "token", "--ca-dir", filepath.Join(dir, "none"), "kvm2"))
	require.Equal(t, exitUsage, d.run("join", "--server", "a:1", "--token", "half a token", "--tls-dir", filepath.Join(dir, "j")))
}

// What an administrator set stays, what is missing is added once, and no settings are made where the package is not.
func TestSetupMakesAMachineTheControlPlane(t *testing.T) {
	d := sit(t)
	d.now = time.Now
	dir := t.TempDir()
	settings := filepath.Join(dir, "server.conf")
	require.NoError(t, os.WriteFile(settings, []byte("#UNDERSTUDY_SERVER_IP=127.0.0.1\nUNDERSTUDY_SERVER_JOIN_LISTEN=10.0.0.5:9999"), 0o640))
	args := []string{"ca", "setup", "--ca-dir", filepath.Join(dir, "ca"), "--tls-dir", filepath.Join(dir, "tls"), "--operator-dir", filepath.Join(dir, "op"),
		"--settings", settings, "--ip", "10.0.0.5", "kvm1", "kvm2"}
	require.Zero(t, d.run(args...), d.stderr.String())
	lines := strings.Split(strings.TrimSpace(d.stdout.String()), "\n")
	require.Len(t, lines, 2)
	require.True(t, strings.HasPrefix(lines[0], "understudy join --server 10.0.0.5:7461 --token us1."), lines[0])
	first, err := os.ReadFile(settings)
	require.NoError(t, err)
	require.Contains(t, string(first), "\nUNDERSTUDY_SERVER_IP=10.0.0.5\n")
	require.Contains(t, string(first), "JOIN_LISTEN=10.0.0.5:9999\n#")
	require.Equal(t, 1, strings.Count(string(first), "JOIN_LISTEN"), "the administrator's own stays")
	certificate, err := os.ReadFile(filepath.Join(dir, "tls", "tls.crt"))
	require.NoError(t, err)

	require.Zero(t, d.run(args...), d.stderr.String())
	again, err := os.ReadFile(settings)
	require.NoError(t, err)
	require.Equal(t, string(first), string(again), "twice is once")
	same, err := os.ReadFile(filepath.Join(dir, "tls", "tls.crt"))
	require.NoError(t, err)
	require.Equal(t, string(certificate), string(same))
	require.Equal(t, exitUsage, d.run("ca", "setup", "kvm1"), "without an address")
	require.Equal(t, exitUsage, d.run("ca", "setup", "--ip", "10.0.0.5", "../x"))
}
