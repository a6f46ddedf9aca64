package guard

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/internal/model"
)

const someVM = "0a1b2c3d-0000-4000-8000-00000000abcd"

// fakeProc is a /proc of made-up processes: pid → arguments, state, start in ticks.
type fakeProc struct {
	args  []string
	name  string
	state string
	ticks int
}

func procOf(t *testing.T, list map[string]fakeProc) procfs {
	t.Helper()
	root := t.TempDir()
	for pid, p := range list {
		dir := filepath.Join(root, pid)
		require.NoError(t, os.MkdirAll(dir, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "cmdline"), []byte(strings.Join(p.args, "\x00")+"\x00"), 0o644))
		stat := fmt.Sprintf("%s (%s) %s 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 %d 0 0\n", pid, p.name, p.state, p.ticks)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "stat"), []byte(stat), 0o644))
	}
	return procfs{root}
}

func TestQEMUIsFoundByItsUUIDAndByNothingElse(t *testing.T) {
	p := procOf(t, map[string]fakeProc{
		"10":   {[]string{"/usr/bin/qemu-system-x86_64", "-name", "guest=a", "-uuid", strings.ToUpper(someVM)}, "qemu) S 1 (x", "S", 500},
		"11":   {[]string{"anything", "--uuid", someVM}, "anything", "R", 600},
		"12":   {[]string{"sh", "-c", "qemu -uuid " + someVM}, "sh", "S", 1},
		"13":   {[]string{"qemu-system-x86_64", "-name", someVM}, "qemu", "S", 1},
		"14":   {[]string{"qemu-system-x86_64", "-uuid"}, "qemu", "S", 1},
		"15":   {[]string{"qemu-system-x86_64", "-uuid", someVM}, "qemu", "Z", 1},
		"16":   {[]string{"qemu-system-x86_64", "-uuid", "../../etc"}, "qemu", "S", 1},
		"self": {[]string{"qemu-system-x86_64", "-uuid", someVM}, "qemu", "S", 1},
	})
	found, err := p.scan(func(u string) bool { return u == someVM })
	require.NoError(t, err)
	require.ElementsMatch(t, []process{{someVM, 10, model.BootTime(500 * tick)}, {someVM, 11, model.BootTime(600 * tick)}}, found)

	_, err = procfs{filepath.Join(t.TempDir(), "none")}.scan(func(string) bool { return true })
	require.Error(t, err, "a /proc that cannot be read is no empty one: the watchdog is not fed on it")
}

func TestWhatProvesThatNoGuestCodeRuns(t *testing.T) {
	th := func(name, state string) status { return status{name: name, state: state[0]} }
	for _, c := range []struct {
		threads []status
		want    bool
	}{
		{nil, true}, // gone
		{[]status{th("qemu", "T"), th("CPU 0/KVM", "T"), th("io", "t")}, true},
		{[]status{th("qemu", "T"), th("CPU 0/KVM", "R")}, false},
		{[]status{th("qemu", "T"), th("CPU 0/KVM", "T"), th("worker", "S")}, false},
		{[]status{th("qemu", "T"), th("CPU 0/TCG", "T"), th("worker", "D")}, true},  // hangs on a disk, stops on its way back
		{[]status{th("qemu", "T"), th("CPU 0/KVM", "D"), th("worker", "T")}, false}, // a vCPU must stand itself
		{[]status{th("qemu", "T"), th("qemu", "D")}, false},                         // which one is the vCPU?
	} {
		require.Equal(t, c.want, stopped(c.threads), "%v", c.threads)
	}
}

// The freezer of a scope of its own, where this machine has cgroup v2.
func TestAVMWithAScopeIsFrozenByItsCgroup(t *testing.T) {
	h := hand{procfs{"/proc"}, 1e9, 1e9}
	root := h.freezerRoot()
	if root == "" {
		t.Skip("needs cgroup v2")
	}
	scope := filepath.Join(root, fmt.Sprintf("machine-guardtest%d.scope", os.Getpid()))
	if err := os.Mkdir(scope, 0o755); err != nil {
		t.Skipf("needs to make a cgroup: %v", err)
	}
	p, vm := stand(t), aVM()
	q := start(t, vm)
	t.Cleanup(func() {
		_ = q.cmd.Process.Kill()
		<-q.end
		require.Eventually(t, func() bool { return os.Remove(scope) == nil }, 2e9, 1e7)
	})
	if err := os.WriteFile(filepath.Join(scope, "cgroup.procs"), []byte(pidText(q.pid())), 0); err != nil {
		t.Skipf("needs to move a process: %v", err)
	}
	require.Equal(t, scope, h.scope(q.pid()))
	frozen := func() bool {
		b, err := os.ReadFile(filepath.Join(scope, "cgroup.events"))
		return err == nil && strings.Contains(string(b), "frozen 1")
	}
	require.NoError(t, p.arm(vm, 1, model.ModeLeased, 1))
	q.soon("frozen", frozen)
	require.False(t, q.frozen(), "not by a signal")
	require.NoError(t, p.arm(vm, 1, model.ModeLeased, 60e9))
	q.soon("thawed", func() bool { return !frozen() })
	require.NoError(t, p.arm(vm, 2, model.ModeLeased, 1))
	q.soon("frozen", frozen)
	require.NoError(t, p.c.Stop(t.Context(), vm, 3), "a frozen one dies too")
	q.soon("dead", q.dead)
}

// freezerRoot is where cgroup v2 is mounted.
func (h hand) freezerRoot() string {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, " - cgroup2 ") {
			return strings.Fields(line)[4]
		}
	}
	return ""
}
