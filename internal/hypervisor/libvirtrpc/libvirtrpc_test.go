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

	t.Run("AVMThatStandsStillHoldsNobodyUpButWhoAsksItsQEMU", func(t *testing.T) {
		boot := func(name string) string {
			disk := filepath.Join(l.Dir, "images", name)
			l.CreateImage(t, disk, model.FormatQCOW2, 1<<20)
			uuid := hvtest.NewUUID()
			_, err := c.Define(ctx, fmt.Sprintf(`<domain type='qemu'><name>%s</name><uuid>%s</uuid><memory unit='MiB'>32</memory>
<os><type arch='x86_64' machine='pc'>hvm</type></os><devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file'><driver name='qemu' type='qcow2'/><source file='%s'/><target dev='vda' bus='virtio'/></disk></devices></domain>`, name, uuid, disk))
			require.NoError(t, err)
			require.NoError(t, c.Start(ctx, uuid))
			t.Cleanup(func() {
				require.NoError(t, c.Destroy(ctx, uuid))
				require.NoError(t, c.Undefine(ctx, uuid))
			})
			return uuid
		}
		still, other := boot("still"), boot("other")
		l.FreezeQEMU(t, "still")
		quickly := func(what string, f func(ctx context.Context) error) {
			limit, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			require.NoError(t, f(limit), what)
		}
		look := func(limit context.Context) error {
			d, err := c.Look(limit, still)
			require.Equal(t, hypervisor.Running, d.State)
			return err
		}
		lookAll := func(limit context.Context) error {
			list, err := c.LookAll(limit)
			require.GreaterOrEqual(t, len(list), 2)
			return err
		}
		quickly("look", look)
		quickly("look at all", lookAll)

		// Whoever asks its QEMU waits, and stays waiting in libvirtd when he gave up.
		limit, give := context.WithTimeout(ctx, time.Second)
		_, err := c.Domain(limit, still)
		give()
		require.Equal(t, model.Unreachable, model.KindOf(err))

		quickly("look beside one who waits", look)
		quickly("look at all beside one who waits", lookAll)
		quickly("another's counters", func(limit context.Context) error {
			list, err := c.Stats(limit, hypervisor.StatsQuery{Only: []string{other}})
			require.Len(t, list, 1)
			return err
		})
		quickly("another", func(limit context.Context) error { _, err := c.Domain(limit, other); return err })
		begin := time.Now()
		require.NoError(t, c.Destroy(ctx, still))
		t.Logf("libvirt took %s to end it", time.Since(begin).Round(time.Millisecond))
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
