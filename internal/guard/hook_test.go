package guard

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"understudy/internal/model"
)

func domain(vm string) string {
	return "<domain type='qemu'>\n  <name>db1</name>\n  <metadata><x><uuid>" + aVM() + "</uuid></x></metadata>\n  <uuid>" + vm + "</uuid>\n</domain>\n"
}

func TestTheGateFailsClosedForTheListAndPassesTheRest(t *testing.T) {
	p, vm, other := stand(t), aVM(), aVM()
	gate := func(xml string) error { return Gate(context.Background(), p.c, p.dir, strings.NewReader(xml)) }
	require.NoError(t, p.arm(vm, 1, model.ModeSole, time.Hour/10))
	require.NoError(t, gate(domain(vm)))
	require.NoError(t, gate(domain(other)))
	kindOf(t, model.Refused, gate(ProbeDomain))

	p.stop() // the guard is away
	kindOf(t, model.Refused, gate(domain(vm)))
	kindOf(t, model.Refused, gate(domain(strings.ToUpper(vm))))
	kindOf(t, model.Refused, gate(ProbeDomain))
	require.NoError(t, gate(domain(other)))
	kindOf(t, model.Refused, gate("<domain><name>x</name></domain>"))
	kindOf(t, model.Refused, gate("not XML"))

	require.NoError(t, os.WriteFile(ListFile(p.dir), []byte("{"), 0o600))
	kindOf(t, model.Refused, gate(domain(other)))
	require.NoError(t, os.Remove(ListFile(p.dir)))
	require.NoError(t, gate(domain(vm)), "nothing was ever protected here")
	require.NoError(t, gate("not XML"))
}

func TestWhichCallsOfLibvirtAreStarts(t *testing.T) {
	for _, op := range []string{"prepare", "migrate", "restore"} {
		require.True(t, Gated(op, "begin"))
		require.False(t, Gated(op, "end"))
	}
	for _, op := range []string{"start", "started", "stopped", "release", "reconnect", "attach"} {
		require.False(t, Gated(op, "begin"))
	}
}

// call runs the installed hook as libvirt does.
func call(t *testing.T, hooks, xml string, args ...string) error {
	t.Helper()
	cmd := exec.Command(HookFile(hooks), args...)
	cmd.Stdin = strings.NewReader(xml)
	return cmd.Run()
}

func TestTheHookFailsClosedWithoutItsProgram(t *testing.T) {
	dir, hooks, vm := t.TempDir(), filepath.Join(t.TempDir(), "hooks"), aVM()
	require.NoError(t, os.MkdirAll(filepath.Dir(ListFile(dir)), 0o755))
	changed, err := InstallHook(hooks, filepath.Join(dir, "it's gone"), dir, dir)
	require.NoError(t, err)
	require.True(t, changed)
	require.NoError(t, call(t, hooks, domain(vm), "db1", "prepare", "begin", "-"), "there is no list")

	require.NoError(t, store{list: ListFile(dir)}.writeList([]string{vm}))
	require.Error(t, call(t, hooks, "<domain>\n<uuid>"+vm+"</uuid></domain>", "db1", "prepare", "begin", "-"))
	require.NoError(t, call(t, hooks, "<domain>\n<uuid>"+aVM()+"</uuid></domain>", "db1", "prepare", "begin", "-"))
	require.NoError(t, call(t, hooks, "<domain>\n<uuid>"+vm+"</uuid></domain>", "db1", "stopped", "end", "-"))
	require.Error(t, call(t, hooks, "nothing", "db1", "restore", "begin", "-"))
	require.Error(t, ProveHook(context.Background(), hooks), "the program is away, and the proof says so")
}

func TestTheHookIsInstalledOnceAndSpareOthers(t *testing.T) {
	hooks, dir := t.TempDir(), t.TempDir()
	program := filepath.Join(dir, "understudy")
	require.NoError(t, os.WriteFile(program, []byte("#!/bin/sh\ncat >/dev/null\necho understudy refuses >&2\nexit 12\n"), 0o755))
	kindOf(t, model.Refused, ProveHook(context.Background(), hooks))
	_, err := InstallHook(hooks, program, dir, dir)
	require.NoError(t, err)
	changed, err := InstallHook(hooks, program, dir, dir)
	require.NoError(t, err)
	require.False(t, changed)
	require.NoError(t, ProveHook(context.Background(), hooks))
	left, err := os.ReadDir(hooks)
	require.NoError(t, err)
	require.Len(t, left, 1, "only qemu.d")

	require.NoError(t, os.WriteFile(program, []byte("#!/bin/sh\nexit 0\n"), 0o755))
	kindOf(t, model.Refused, ProveHook(context.Background(), hooks))
	require.NoError(t, RemoveHook(hooks))
	require.NoFileExists(t, HookFile(hooks))

	require.NoError(t, os.WriteFile(HookFile(hooks), []byte("#!/bin/sh\n# mine\n"), 0o755))
	_, err = InstallHook(hooks, program, dir, dir)
	kindOf(t, model.Conflict, err)
	kindOf(t, model.Conflict, RemoveHook(hooks))
}

// A pipe plays the device.
func TestTheWatchdogIsFedAndDisarmedOnlyWhenNobodyCountsOnIt(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "watchdog")
	require.NoError(t, unix.Mkfifo(pipe, 0o600))
	f, err := os.OpenFile(pipe, os.O_RDWR|unix.O_NONBLOCK, 0)
	require.NoError(t, err)
	defer f.Close()
	drain := func() string {
		b := make([]byte, 4096)
		require.NoError(t, f.SetReadDeadline(time.Now().Add(200*time.Millisecond)))
		n, _ := f.Read(b)
		return string(b[:n])
	}
	p, vm := stand(t, func(o *Options) { o.Watchdog, o.WatchdogLevel = pipe, 2 }), aVM()
	s, err := p.c.State(context.Background())
	require.NoError(t, err)
	require.Equal(t, model.GuardState{Level: 2, Watchdog: pipe}, s)
	require.Eventually(t, func() bool { return strings.Contains(drain(), ".") }, 5*time.Second, 10*time.Millisecond)

	require.NoError(t, p.arm(vm, 1, model.ModeLeased, time.Minute))
	p.stop()
	require.NotContains(t, drain(), "V")
	p.begin()
	require.NoError(t, p.c.Stop(context.Background(), vm, 2))
	p.stop()
	require.Contains(t, drain(), "V")

	p.o = func(o *Options) { o.Watchdog = pipe } // its kind is not said
	p.begin()
	s, err = p.c.State(context.Background())
	require.NoError(t, err)
	require.Equal(t, 1, s.Level)
	require.NotEmpty(t, s.Detail)
}
