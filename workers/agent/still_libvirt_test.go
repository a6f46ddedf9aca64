package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/activities"
	"understudy/internal/hypervisor/hvtest"
	"understudy/internal/hypervisor/libvirtrpc"
	"understudy/internal/model"
)

// herd is VMs under a real libvirtd, whose QEMUs write by every way there is.
type herd struct {
	*rig
	l   *hvtest.Libvirtd
	c   *libvirtrpc.Client
	vms []model.VMRef
}

var engines = []string{"threads", "native", "io_uring"}

func newHerd(ctx context.Context, t *testing.T, n int) *herd {
	t.Helper()
	h := &herd{l: hvtest.StartLibvirtd(t)}
	if !local(h.l.Dir) {
		t.Skip("the folder of temporary files is on no file system of which the kernel counts writes")
	}
	var err error
	h.c, err = libvirtrpc.Dial(ctx, h.l.Socket, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.c.Close()) })
	h.rig = newRig(t, filepath.Join(t.TempDir(), "watch"), nil, &plane{})
	h.watcher.hv, h.watcher.proc, h.watcher.local = looking{h.c}, procRoot, local
	for i := range n {
		vm := model.VMRef{Name: fmt.Sprintf("vm%d", i), UUID: hvtest.NewUUID()}
		disk := filepath.Join(h.l.Dir, "images", vm.Name)
		h.l.CreateImage(t, disk, model.FormatQCOW2, 1<<26)
		_, err := h.c.Define(ctx, fmt.Sprintf(`<domain type='qemu'><name>%s</name><uuid>%s</uuid><memory unit='MiB'>32</memory>
<os><type arch='x86_64' machine='pc'>hvm</type></os><devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file'><driver name='qemu' type='qcow2' cache='none' io='%s'/><source file='%s'/><target dev='vda' bus='virtio'/></disk></devices></domain>`,
			vm.Name, vm.UUID, engines[i%len(engines)], disk))
		require.NoError(t, err)
		require.NoError(t, h.c.Start(ctx, vm.UUID))
		t.Cleanup(func() { _ = h.c.Destroy(context.WithoutCancel(ctx), vm.UUID) })
		h.vms = append(h.vms, vm)
		h.Serve(activities.Watched{VM: vm, Generation: 1, RPO: time.Hour, Committed: model.PointRef{Generation: 1, Seq: 1}})
	}
	require.Eventually(t, func() bool { // a domain that libvirtd is busy with is left out of an answer
		h.clock = h.clock.Add(cpuEvery)
		h.round(t)
		h.round(t)
		for _, vm := range h.vms {
			if s := h.stills[vm.UUID]; s == nil || s.io == nil || !s.marked {
				return false
			}
		}
		return true
	}, time.Minute, 200*time.Millisecond)
	return h
}

func (h *herd) round(t *testing.T) {
	t.Helper()
	h.clock = h.clock.Add(time.Second)
	require.NoError(t, h.sample(context.Background(), ""))
}

func (h *herd) reqs(vm model.VMRef) int64 { return h.watcher.vms[vm.UUID].Meter.Since.Reqs }

// The kernel is believed only for what was tried: each engine of QEMU, the same block again and again, with and without flushes.
func TestTheKernelCountsEachWriteThatQEMUMakesPastThePageCache(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	h := newHerd(ctx, t, len(engines))
	for i, vm := range h.vms {
		s := h.stills[vm.UUID]
		_, known := s.written()
		require.True(t, known, engines[i])
		for n := range 8 {
			before, _ := s.written()
			h.l.Write(t, vm.Name, "vda", byte(n), int64(n%2)*65536, 4096)
			after, _ := s.written()
			require.Greater(t, after, before, "%s, write %d", engines[i], n)
			seen := h.reqs(vm)
			require.Eventually(t, func() bool { h.round(t); return h.reqs(vm) > seen }, time.Minute, 10*time.Millisecond, "%s, write %d", engines[i], n)
			require.False(t, s.doubted)
		}
		h.round(t)
		require.Less(t, h.watcher.vms[vm.UUID].Meter.Last.At, h.clock, "%s: not asked while it is still", engines[i])
	}
}

// What a round of questions costs libvirtd and the QEMUs, with and without the kernel's help; the figures go to docs/PERFORMANCE.md.
func TestARoundOverIdleVMsCostsNextToNothing(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	const n, rounds = 9, 40
	h := newHerd(ctx, t, n)
	daemon, qemus := h.processes(t)
	spent := func(believe bool) (libvirtd, qemu, own time.Duration) {
		for _, s := range h.stills {
			s.doubted = !believe
		}
		h.round(t)
		l, q, o := cpuOf(daemon...), cpuOf(qemus...), cpuTime(t)
		for range rounds {
			h.clock = h.clock.Add(10 * time.Millisecond) // no question is due for being long ago
			require.NoError(t, h.sample(ctx, ""))
			time.Sleep(20 * time.Millisecond)
		}
		return cpuOf(daemon...) - l, cpuOf(qemus...) - q, cpuTime(t) - o
	}
	l0, q0, o0 := spent(false)
	l1, q1, o1 := spent(true)
	per := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) / n / rounds }
	t.Logf("ms of CPU a VM and round: asked libvirtd %.3f, QEMU %.3f, agent %.3f; still libvirtd %.3f, QEMU %.3f, agent %.3f", per(l0), per(q0), per(o0), per(l1), per(q1), per(o1))
	require.Less(t, l1, l0/4)
}

// processes are libvirtd's and the QEMUs', by the folder that they see as libvirt's.
func (h *herd) processes(t *testing.T) (daemon, qemus []string) {
	t.Helper()
	want, err := os.Stat(filepath.Join(h.l.Dir, "run"))
	require.NoError(t, err)
	all, err := filepath.Glob("/proc/[0-9]*")
	require.NoError(t, err)
	for _, p := range all {
		st, err := os.Stat(p + "/root/run/libvirt")
		if err != nil || !os.SameFile(st, want) {
			continue
		}
		name, _ := os.ReadFile(p + "/comm")
		switch {
		case strings.HasPrefix(string(name), "libvirtd"):
			daemon = append(daemon, p)
		case strings.HasPrefix(string(name), "qemu"):
			qemus = append(qemus, p)
		}
	}
	require.NotEmpty(t, daemon)
	require.NotEmpty(t, qemus)
	return daemon, qemus
}

func cpuOf(processes ...string) (sum time.Duration) {
	for _, p := range processes {
		threads, _ := filepath.Glob(p + "/task/*/schedstat")
		for _, f := range threads {
			var ns int64
			if b, err := os.ReadFile(f); err == nil {
				_, _ = fmt.Sscan(string(b), &ns)
			}
			sum += time.Duration(ns)
		}
	}
	return sum
}
