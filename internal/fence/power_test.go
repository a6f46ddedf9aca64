package fence

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/model"
)

// agent is a fence agent with a power switch in a file; what it was told is noted.
func agent(t *testing.T, name, body string) (path, notes string) {
	t.Helper()
	dir := t.TempDir()
	path, notes = filepath.Join(dir, name), filepath.Join(dir, "notes")
	require.NoError(t, os.WriteFile(path, []byte(`#!/bin/bash
D=`+dir+`
while IFS='=' read -r k v; do declare "opt_$k=$v"; echo "$k=$v" >>"$D/notes"; done
case $opt_action in
`+body+`
  off) echo off >"$D/power"; exit 0 ;;
  status) [[ $(cat "$D/power" 2>/dev/null) == off ]] && exit 2; exit 0 ;;
  monitor) exit 0 ;;
esac
exit 1
`), 0o700))
	return path, notes
}

func power(t *testing.T, yaml string) *Power {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fence.yaml")
	require.NoError(t, os.WriteFile(path, []byte("version: 1\nhosts:\n"+yaml), 0o600))
	p, err := Open(path, Command{}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	return p
}

func (p *Power) offA(t *testing.T) (model.Evidence, error) {
	return p.Off(t.Context(), "host-a", 4, time.Now)
}

func TestAnAgentIsToldItsOptionsAndItsSecretOnStandardInput(t *testing.T) {
	path, notes := agent(t, "fence_x", "")
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("s3cret\n"), 0o600))
	p := power(t, fmt.Sprintf("  host-a: {agent: %s, options: {plug: 7, password_file: %s}}\n", path, secret))
	ev, err := p.offA(t)
	require.NoError(t, err)
	require.Equal(t, model.EvidenceFenced, ev.Kind)
	require.Equal(t, model.Generation(4), ev.Generation)
	require.Equal(t, path, ev.By)
	require.Contains(t, ev.Detail, "fence_x plug=7")
	told, err := os.ReadFile(notes)
	require.NoError(t, err)
	require.Equal(t, "action=off\nplug=7\npassword=s3cret\naction=status\nplug=7\npassword=s3cret\n", string(told))
}

func TestOnlyAStatusThatSaysOffIsEvidence(t *testing.T) {
	for _, c := range []struct{ name, body, says string }{
		{"the order fails", `off) echo "no route to s3cret" >&2; exit 1 ;;`, "exit code 1: no route to ***"},
		{"status says on", `status) exit 0 ;;`, "status still says on"},
		{"status fails", `status) exit 1 ;;`, "no status off within"},
		{"the agent hangs", `off) sleep 100 & wait ;;`, "given up"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path, _ := agent(t, "fence_x", c.body)
			secret := filepath.Join(t.TempDir(), "secret")
			require.NoError(t, os.WriteFile(secret, []byte("s3cret"), 0o600))
			began := time.Now()
			_, err := power(t, fmt.Sprintf("  host-a: {agent: %s, timeout: 300ms, retries: 1, secrets: {password: %s}}\n", path, secret)).offA(t)
			require.Equal(t, model.FenceUnconfirmed, model.KindOf(err))
			require.ErrorContains(t, err, c.says)
			require.NotContains(t, err.Error(), "s3cret")
			require.Less(t, time.Since(began), 5*time.Second)
		})
	}
}

func TestThePowerMayGoDownAWhileAfterTheOrder(t *testing.T) {
	path, _ := agent(t, "fence_x", `off) (sleep 0.7; echo off >"$D/power") >/dev/null 2>&1 & exit 0 ;;`)
	_, err := power(t, "  host-a: {agent: "+path+", timeout: 10s}\n").offA(t)
	require.NoError(t, err)
}

func TestLevelsAreTriedInOrderAndAllDevicesOfALevelMustConfirm(t *testing.T) {
	good, _ := agent(t, "fence_good", "")
	bad, _ := agent(t, "fence_bad", "off) exit 1 ;;")
	last, _ := agent(t, "fence_last", "")
	ev, err := power(t, fmt.Sprintf("  host-a:\n  - [{agent: %s}, {agent: %s, retries: 0}]\n  - agent: %s\n", good, bad, last)).offA(t)
	require.NoError(t, err)
	require.Equal(t, last, ev.By, "one of two power supplies is still on after level 1")
	require.Contains(t, ev.Detail, "level 2")
	_, err = power(t, "  host-b: {agent: "+good+"}\n").offA(t)
	require.Equal(t, model.FenceUnconfirmed, model.KindOf(err), "a device of another host is none")
}

func TestTheOperatorsCommandIsTheLastLevel(t *testing.T) {
	bad, _ := agent(t, "fence_bad", "off) exit 1 ;;")
	p := power(t, "  host-a: {agent: "+bad+", retries: 0}\n")
	p.command = Command{Argv: script(t, "echo off")}
	ev, err := p.offA(t)
	require.NoError(t, err)
	require.Equal(t, p.command.Argv[0], ev.By)
}

func TestAnOrderIsRepeatedAsOftenAsTheFileSays(t *testing.T) {
	path, _ := agent(t, "fence_x", `off) echo x >>"$D/tries"; [[ $(wc -l <"$D/tries") -ge 3 ]] && echo off >"$D/power" && exit 0; exit 1 ;;`)
	_, err := power(t, "  host-a: {agent: "+path+", retries: 1}\n").offA(t)
	require.Error(t, err)
	_, err = power(t, "  host-a: {agent: "+path+", retries: 1}\n").offA(t)
	require.NoError(t, err, "the third one")
}

func TestManyVMsOfOneHostShareAPowerOffThatBeganAfterTheyAsked(t *testing.T) {
	path, notes := agent(t, "fence_x", `status) sleep 0.3; exit 2 ;;`)
	p := power(t, "  host-a: {agent: "+path+"}\n")
	var wg sync.WaitGroup
	for g := range 20 {
		wg.Go(func() {
			ev, err := p.Off(t.Context(), "host-a", model.Generation(g), time.Now)
			if err != nil || ev.Generation != model.Generation(g) {
				t.Errorf("%v, %v", ev, err)
			}
		})
	}
	wg.Wait()
	told, err := os.ReadFile(notes)
	require.NoError(t, err)
	require.LessOrEqual(t, strings.Count(string(told), "action=off"), 3, "the first, and one for all who came while it ran")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = p.Off(ctx, "host-a", 1, time.Now)
	require.ErrorIs(t, err, context.DeadlineExceeded, "who gives up does not wait")
}

func TestAFileIsRefusedForWhatWouldFailWhenAHostDies(t *testing.T) {
	path, _ := agent(t, "fence_x", "")
	open := filepath.Join(t.TempDir(), "open")
	require.NoError(t, os.WriteFile(open, []byte("x"), 0o600))
	require.NoError(t, os.Chmod(open, 0o644))
	for _, c := range []struct{ yaml, says string }{
		{"version: 2", "version must be 1"},
		{"version: 1\nhost: {}", "field host not found"},
		{"version: 1\nhosts: {Host_A: {agent: " + path + "}}", "cannot name a host"},
		{"version: 1\nhosts: {a: {agent: fence_x}}", "absolute path"},
		{"version: 1\nhosts: {a: {agent: /nowhere/fence_x}}", "no such file"},
		{"version: 1\nhosts: {a: {agent: " + path + ", retry: 1}}", `"retry" is not a key`},
		{"version: 1\nhosts: {a: {agent: " + path + ", options: {action: on}}}", "cannot be an option"},
		{"version: 1\nhosts: {a: {agent: " + path + ", options: {plug: \"1\\naction=on\"}}}", "must be one line"},
		{"version: 1\nhosts: {a: {agent: " + path + ", options: {password: x}}}", "secrets: {password: FILE}"},
		{"version: 1\nhosts: {a: {agent: " + path + ", secrets: {password: " + open + "}}}", "open to everybody"},
		{"version: 1\nhosts: {a: {agent: " + path + ", timeout: 1h}}", "timeout must be"},
		{"version: 1\nhosts: {a: []}", "has no device"},
		{"version: 1\nhosts: {a: [[]]}", "has no device"},
		{"version: 1\n---\nversion: 1", "one document"},
	} {
		_, err := Parse([]byte(c.yaml))
		require.ErrorContains(t, err, c.says, c.yaml)
	}
}

func TestAChangedFileCountsAtOnceAndADamagedOneDoesNot(t *testing.T) {
	path, _ := agent(t, "fence_x", "")
	p := power(t, "  host-b: {agent: "+path+"}\n")
	require.NoError(t, os.WriteFile(p.path, []byte("version: 1\nhosts:\n  host-a: {agent: "+path+"}\n"), 0o600))
	_, err := p.offA(t)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(p.path, []byte("rubbish"), 0o600))
	_, err = p.offA(t)
	require.NoError(t, err)
	checks := p.Check(t.Context(), "host-a")
	require.False(t, checks[0].OK, "doctor tells")
	require.True(t, checks[1].OK)
}

func TestTheDoctorMonitorsEachDevice(t *testing.T) {
	good, notes := agent(t, "fence_good", "")
	bad, _ := agent(t, "fence_bad", `monitor) echo "login denied" >&2; exit 3 ;;`)
	checks := power(t, fmt.Sprintf("  host-a: [{agent: %s}, {agent: %s}]\n", good, bad)).Check(t.Context(), "host-a")
	require.True(t, checks[0].OK)
	require.False(t, checks[1].OK)
	require.Contains(t, checks[1].Detail, "login denied")
	told, err := os.ReadFile(notes)
	require.NoError(t, err)
	require.Equal(t, "action=monitor\n", string(told))
}

// Debian's own agent of the fence-agents package: what we speak is what ClusterLabs speaks.
func TestDebiansDummyAgentUnderstandsUs(t *testing.T) {
	const dummy = "/usr/sbin/fence_dummy"
	if _, err := os.Stat(dummy); err != nil {
		t.Skip("needs the package fence-agents")
	}
	status := filepath.Join(t.TempDir(), "status")
	require.NoError(t, os.WriteFile(status, []byte("on"), 0o600))
	p := power(t, fmt.Sprintf("  host-a: {agent: %s, options: {type: file, status_file: %s}, timeout: 60s}\n", dummy, status))
	for _, k := range p.Check(t.Context(), "host-a") {
		require.True(t, k.OK, k.Detail)
	}
	ev, err := p.offA(t)
	require.NoError(t, err)
	require.Contains(t, ev.Detail, "fence_dummy")
	b, err := os.ReadFile(status)
	require.NoError(t, err)
	require.Equal(t, "off", string(b))
}

func FuzzParseNeverPanics(f *testing.F) {
	f.Add([]byte("version: 1\nhosts: {a: [[{agent: /bin/true, options: {plug: 1}}]]}"))
	f.Fuzz(func(_ *testing.T, data []byte) { _, _ = Parse(data) })
}
