package fake_test

import (
	"bytes"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/hypervisor"
	"understudy/internal/hypervisor/fake"
	"understudy/internal/hypervisor/hvtest"
	"understudy/internal/model"
)

func TestTheFakeIsAHypervisor(t *testing.T) {
	dir, err := os.MkdirTemp("", "hv")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	h := fake.New()
	hvtest.Run(t, hvtest.Setup{
		HV: h, Dir: dir,
		CreateImage: func(t testing.TB, path string, format model.DiskFormat, size int64) {
			require.NoError(t, h.CreateImage(path, format, size))
		},
		Write: func(t testing.TB, vm model.VMRef, target string, pattern byte, off, length int64) {
			require.NoError(t, h.Write(vm.UUID, target, bytes.Repeat([]byte{pattern}, int(length)), off))
		},
		KillQEMU:      func(t testing.TB, vm model.VMRef) { require.NoError(t, h.Kill(vm.UUID)) },
		Panic:         func(t testing.TB, vm model.VMRef) { require.NoError(t, h.Panic(vm.UUID)) },
		Watchdog:      func(t testing.TB, vm model.VMRef, action string) { require.NoError(t, h.Watchdog(vm.UUID, action)) },
		RestartDaemon: func(testing.TB) { h.Reconnect() },
	})
}

func TestTheGuestAgentOfTheFakeCanFail(t *testing.T) {
	dir := t.TempDir()
	h := fake.New()
	ctx := t.Context()
	require.NoError(t, h.CreateImage(dir+"/a", model.FormatQCOW2, 1<<20))
	d, err := h.Define(ctx, `<domain><name>a</name><devices><disk type='file'><driver type='qcow2'/><source file='`+dir+`/a'/><target dev='vda'/></disk>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel></devices></domain>`)
	require.NoError(t, err)
	require.NoError(t, h.Start(ctx, d.VM.UUID))
	spec := hypervisor.CaptureSpec{Checkpoint: "understudy-g1-s1", Disks: []hypervisor.CaptureDisk{{Target: "vda"}},
		Socket: dir + "/s", ScratchDir: dir, Freeze: true, FreezeTimeout: time.Second}
	for _, broken := range []fake.Agent{fake.AgentHangs, fake.AgentHangsFrozen} {
		h.SetAgent(d.VM.UUID, broken)
		_, err = h.Capture(ctx, d.VM.UUID, spec)
		require.Equal(t, model.QuiesceFailed, model.KindOf(err))
		list, err := h.Checkpoints(ctx, d.VM.UUID)
		require.NoError(t, err)
		require.Empty(t, list)
		require.Equal(t, broken == fake.AgentHangsFrozen, h.Frozen(d.VM.UUID))
	}
	h.SetAgent(d.VM.UUID, fake.AgentAnswers)
	c, err := h.Capture(ctx, d.VM.UUID, spec)
	require.NoError(t, err)
	require.True(t, c.Frozen)
	require.False(t, h.Frozen(d.VM.UUID))
	require.NoError(t, h.EndCapture(ctx, d.VM.UUID, dir))
}
