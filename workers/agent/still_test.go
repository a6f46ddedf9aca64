package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/activities"
	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

// asking counts the questions.
type asking struct {
	*libvirt
	times int
}

func (a *asking) Stats(ctx context.Context, q hypervisor.StatsQuery) ([]hypervisor.Stats, error) {
	a.times += len(q.Only)
	return a.libvirt.Stats(ctx, q)
}

// kernel is a /proc in which one QEMU runs.
type kernel struct {
	*rig
	t     *testing.T
	asked *asking
	bytes int64
}

func newKernel(t *testing.T, disk hypervisor.Disk) *kernel {
	hv := running()
	hv.stats.Run, hv.domain.Disks = 1, []hypervisor.Disk{disk}
	k := &kernel{rig: newRig(t, filepath.Join(t.TempDir(), "watch"), hv, &plane{}), t: t, asked: &asking{libvirt: hv}}
	k.watcher.hv, k.watcher.proc, k.watcher.local = k.asked, t.TempDir(), func(string) bool { return true }
	k.begin("41")
	k.wrote(4096)
	k.cycle(t, 1)
	k.Serve(activities.Watched{VM: db1, Generation: 1, RPO: 40 * time.Second})
	k.pass(time.Second) // everybody is asked first, and what the disks are
	k.pass(time.Second) // the kernel's number at a question
	k.asked.times = 0
	return k
}

func direct() hypervisor.Disk {
	return hypervisor.Disk{Disk: model.Disk{Target: "vda", Format: model.FormatQCOW2, Path: "/var/lib/libvirt/images/db1"}, Direct: true}
}

func (k *kernel) begin(pid string) {
	dir := filepath.Join(k.proc, pid)
	require.NoError(k.t, os.MkdirAll(dir, 0o755))
	require.NoError(k.t, os.WriteFile(filepath.Join(dir, "cmdline"), []byte("qemu\x00-uuid\x00"+db1.UUID+"\x00-m\x001\x00"), 0o644))
}

func (k *kernel) wrote(n int64) {
	k.bytes += n
	require.NoError(k.t, os.WriteFile(filepath.Join(k.proc, "41", "io"), fmt.Appendf(nil, "rchar: 1\nwchar: 2\nsyscr: 3\nsyscw: 4\nread_bytes: 5\nwrite_bytes: %d\ncancelled_write_bytes: 0\n", k.bytes), 0o644))
}

// guest is a write that libvirt counts.
func (k *kernel) guest(n int64) {
	k.rig.hv.set(func(l *libvirt) { l.stats.WriteBytes += n; l.stats.WriteReqs++ })
}

func (k *kernel) pass(d time.Duration) {
	k.clock = k.clock.Add(d)
	require.NoError(k.t, k.sample(context.Background(), ""))
}

func TestAVMThatWritesNothingIsNotAskedFor(t *testing.T) {
	k := newKernel(t, direct())
	for range 4 { // a quarter of its RPO is 10 s
		k.pass(time.Second)
	}
	require.Zero(t, k.asked.times)
	before := k.clock
	k.guest(4096)
	k.wrote(4096)
	k.pass(time.Second)
	require.Equal(t, 1, k.asked.times)
	oldest, _ := k.exposure(db1.UUID)
	require.Equal(t, before, *oldest, "one look earlier, as if it had been asked all the time")
	require.EqualValues(t, 4096, k.vms[db1.UUID].Meter.Since.Bytes)
	require.InDelta(t, 4096, k.vms[db1.UUID].Meter.rate, 1, "it was all written in the last second")
	k.pass(time.Second)
	require.Equal(t, 1, k.asked.times, "it is still again")
}

func TestAVMThatWritesNothingIsAskedForNowAndThenAllTheSame(t *testing.T) {
	k := newKernel(t, direct())
	for range 60 {
		k.pass(time.Second)
	}
	require.GreaterOrEqual(t, k.asked.times, 4)
	require.LessOrEqual(t, k.asked.times, 15, "each quarter of its RPO; half of it when there are many")
	for i := range 49 {
		uuid := fmt.Sprintf("11111111-2222-3333-4444-%012d", i)
		k.Serve(activities.Watched{VM: model.VMRef{Name: uuid, UUID: uuid}, Generation: 1, RPO: time.Hour})
	}
	require.Equal(t, 10*time.Second, k.longest(db1.UUID))
	k.vms[db1.UUID].RPO = 8 * time.Second
	require.Equal(t, 4*time.Second, k.longest(db1.UUID), "half of its RPO")
}

// Zeroes that were not flushed, for example.
func TestAWriteThatTheKernelDidNotCountIsAsOldAsTheLastAnswerAndEndsTheTrust(t *testing.T) {
	k := newKernel(t, direct())
	answered := k.clock
	k.guest(65536)
	for k.asked.times == 0 {
		k.pass(time.Second)
	}
	require.LessOrEqual(t, k.clock.Sub(answered), 11*time.Second)
	oldest, _ := k.exposure(db1.UUID)
	require.Equal(t, answered, *oldest)
	k.asked.times = 0
	k.pass(time.Second)
	k.pass(time.Second)
	require.Equal(t, 2, k.asked.times, "this QEMU is asked each time from now on")
}

func TestOnlyImagesThatBypassThePageCacheAreLeftToTheKernel(t *testing.T) {
	cached, raw, odd := direct(), direct(), direct()
	cached.Direct, raw.Format, odd.Problem = false, model.FormatRaw, "lies on the network"
	for name, d := range map[string]hypervisor.Disk{"cached": cached, "raw": raw, "odd": odd} {
		k := newKernel(t, d)
		k.pass(time.Second)
		k.pass(time.Second)
		require.Equal(t, 2, k.asked.times, name)
	}
	k := newKernel(t, direct())
	k.rig.hv.set(func(l *libvirt) { l.domain.Disks = append(l.domain.Disks, cached) })
	k.pass(cpuEvery) // a disk was plugged in: it is looked at again
	k.asked.times = 0
	k.pass(time.Second)
	require.Equal(t, 1, k.asked.times)
}

func TestAQEMUThatIsGoneOrAnotherIsAskedFor(t *testing.T) {
	k := newKernel(t, direct())
	require.NoError(t, os.Truncate(filepath.Join(k.proc, "41", "io"), 0)) // what is read of a dead process
	k.rig.hv.set(func(l *libvirt) { l.stats.Run, l.stats.WriteBytes, l.stats.WriteReqs = 2, 512, 1 })
	before := k.clock
	k.pass(time.Second)
	require.Equal(t, 1, k.asked.times)
	oldest, _ := k.exposure(db1.UUID)
	require.Equal(t, before, *oldest)
	k.rig.hv.set(func(l *libvirt) { l.domain = nil })
	k.pass(time.Second)
	require.Equal(t, 2, k.asked.times)
}
