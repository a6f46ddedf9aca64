package libvirtrpc_test

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/hypervisor"
	"understudy/internal/hypervisor/hvtest"
	"understudy/internal/hypervisor/libvirtrpc"
	"understudy/internal/model"
)

func TestLibvirtIsAHypervisor(t *testing.T) {
	l := hvtest.StartLibvirtd(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	c, err := libvirtrpc.Dial(ctx, l.Socket, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	hvtest.Run(t, hvtest.Setup{
		HV: c, Dir: l.Dir,
		CreateImage: l.CreateImage,
		Write: func(t testing.TB, vm model.VMRef, target string, pattern byte, off, length int64) {
			l.Write(t, vm.Name, target, pattern, off, length)
		},
		KillQEMU:      func(t testing.TB, vm model.VMRef) { l.KillQEMU(t, vm.Name) },
		Panic:         func(t testing.TB, vm model.VMRef) { l.Out(t, vm.Name, 0x505, 1) },            // of the ISA panic device
		Watchdog:      func(t testing.TB, vm model.VMRef, _ string) { l.Out(t, vm.Name, 0x443, 15) }, // of an ib700: no time left
		FullDisk:      l.FullDisk,
		WriteIDE:      func(t testing.TB, vm model.VMRef) { l.WriteIDE(t, vm.Name) },
		RestartDaemon: l.Restart,
		StopDaemon:    l.Stop,
	})

	t.Run("AnAgentThatIsNotThereFailsTheFreezeAtOnce", func(t *testing.T) {
		disk := filepath.Join(l.Dir, "images", "agent")
		l.CreateImage(t, disk, model.FormatQCOW2, 1<<20)
		uuid := hvtest.NewUUID()
		_, err := c.Define(ctx, fmt.Sprintf(`<domain type='qemu'><name>agent</name><uuid>%s</uuid><memory unit='MiB'>32</memory>
<os><type arch='x86_64' machine='pc'>hvm</type></os><devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file'><driver name='qemu' type='qcow2'/><source file='%s'/><target dev='vda' bus='virtio'/></disk>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel></devices></domain>`, uuid, disk))
		require.NoError(t, err)
		require.NoError(t, c.Start(ctx, uuid))
		begin := time.Now()
		_, err = c.Capture(ctx, uuid, hypervisor.CaptureSpec{
			Checkpoint: "understudy-g1-s1", Disks: []hypervisor.CaptureDisk{{Target: "vda"}},
			Socket: filepath.Join(l.Dir, "s", "agent"), ScratchDir: filepath.Join(l.Dir, "scratch"),
			Freeze: true, FreezeTimeout: 5 * time.Second,
		})
		require.Equal(t, model.QuiesceFailed, model.KindOf(err), "%v", err)
		require.NotContains(t, err.Error(), "not known", "it was never frozen")
		require.Equal(t, model.QuiesceFailed, model.KindOf(c.PingGuest(ctx, uuid, time.Second)))
		require.Less(t, time.Since(begin), 5*time.Second)
		list, err := c.Checkpoints(ctx, uuid)
		require.NoError(t, err)
		require.Empty(t, list)
		require.NoError(t, c.Destroy(ctx, uuid))
		require.NoError(t, c.Undefine(ctx, uuid))
	})
}

func TestASocketWithoutLibvirtdIsUnreachable(t *testing.T) {
	_, err := libvirtrpc.Dial(t.Context(), filepath.Join(t.TempDir(), "none"), nil)
	require.Equal(t, model.Unreachable, model.KindOf(err))

	// Somebody listens and says nothing.
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	require.NoError(t, err)
	defer ln.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = libvirtrpc.Dial(ctx, ln.Addr().String(), nil)
	require.Equal(t, model.Unreachable, model.KindOf(err))
}
