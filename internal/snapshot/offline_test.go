package snapshot_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/internal/blockio"
	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(t, err, "%s %v: %s", name, args, out)
}

// stopped is a VM that is off, with a real overlay on a base, of which point 1 is committed.
func stopped(t *testing.T) (*libvirtd, dirs, string) {
	for _, tool := range []string{"qemu-img", "qemu-nbd", "qemu-io"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs " + tool)
		}
	}
	l, d := newLibvirtd("vda"), newDirs(t)
	dir := t.TempDir()
	base, disk := filepath.Join(dir, "base"), filepath.Join(dir, "disk")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", base, "1M")
	run(t, "qemu-io", "-c", "write -P 1 0 64k", base)
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", disk)
	l.dom.Disks[0].Path, l.dom.Disks[0].Size = disk, 1<<20
	s := d.agent(l)
	take(t, s, 1, 0)
	settle(t, s, 1)
	return l, d, disk
}

func TestTheDisksOfADeadVMAreReadFromTheirImages(t *testing.T) {
	l, d, disk := stopped(t)
	run(t, "qemu-io", "-c", "write -P 7 128k 64k", disk)
	s := d.agent(l)
	_, err := s.Offline(t.Context(), request(2, 1))
	require.Equal(t, model.Conflict, model.KindOf(err), "a VM that runs has a QEMU of its own")

	l.dom.State = hypervisor.ShutOff
	o, err := s.Offline(t.Context(), request(2, 1))
	require.NoError(t, err)
	require.Equal(t, point(2), o.Point)
	require.Equal(t, model.ModeResync, o.Disks[0].Mode, "a killed QEMU leaves no bitmap")
	require.EqualValues(t, 1<<20, o.Disks[0].Size)
	src, err := o.Open(t.Context(), "vda")
	require.NoError(t, err)
	for off, want := range map[int64]byte{0: 1, 64 << 10: 0, 128 << 10: 7} {
		var p [512]byte
		require.NoError(t, src.ReadAt(t.Context(), p[:], off))
		require.Equal(t, want, p[100], off)
	}
	require.NoError(t, src.Close())
	require.NoError(t, o.Close())
	run(t, "qemu-io", "-c", "write -P 8 0 512", disk) // nobody holds it any more
}

func TestABitmapThatSurvivedSparesTheComparison(t *testing.T) {
	l, d, disk := stopped(t)
	run(t, "qemu-img", "bitmap", "--add", disk, point(1).Mark())
	run(t, "qemu-io", "-c", "write -P 7 128k 64k", disk)
	l.dom.State = hypervisor.ShutOff
	o, err := d.agent(l).Offline(t.Context(), request(2, 1))
	require.NoError(t, err)
	require.Equal(t, model.ModeDelta, o.Disks[0].Mode)
	src, err := o.Open(t.Context(), "vda")
	require.NoError(t, err)
	var dirty []string
	require.NoError(t, src.Map(t.Context(), blockio.DirtyBitmap, 0, src.Size(), func(e blockio.Extent) error {
		if e.Kind == blockio.Dirty {
			dirty = append(dirty, fmt.Sprint(e.Offset, "+", e.Length))
		}
		return nil
	}))
	require.Equal(t, []string{"131072+65536"}, dirty)
	require.NoError(t, src.Close())
	require.NoError(t, o.Close())

	l.marks = append(l.marks, &mark{name: point(2).Mark()}) // a capture was under way: writes since then are in its bitmap
	o, err = d.agent(l).Offline(t.Context(), request(3, 1))
	require.NoError(t, err)
	require.Equal(t, model.ModeResync, o.Disks[0].Mode)
	require.NoError(t, o.Close())
}
