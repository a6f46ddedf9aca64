package snapshot_test

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/internal/blockio"
	"understudy/internal/hypervisor/fake"
	"understudy/internal/model"
	"understudy/internal/snapshot"
)

func TestAnOpenSnapshotIsReadAsItWasWhileTheGuestWritesOn(t *testing.T) {
	ctx := context.Background()
	d := newDirs(t)
	hv := fake.New()
	image := filepath.Join(t.TempDir(), "vda.qcow2")
	require.NoError(t, hv.CreateImage(image, model.FormatQCOW2, 1<<20))
	_, err := hv.Define(ctx, fmt.Sprintf(`<domain type='qemu'><name>db1</name><uuid>%s</uuid><devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='%s'/><target dev='vda' bus='virtio'/></disk></devices></domain>`, vm.UUID, image))
	require.NoError(t, err)
	require.NoError(t, hv.Start(ctx, vm.UUID))
	s := snapshot.New(hv, snapshot.Options{Host: "host-a", RunDir: d.run, StateDir: d.state, ImageDirs: []string{filepath.Dir(image)}})

	take(t, s, 1, 0)
	settle(t, s, 1)
	block := func(b byte) []byte { return bytes.Repeat([]byte{b}, model.BlockSize) }
	require.NoError(t, hv.Write(vm.UUID, "vda", block(1), 3*model.ClusterSize))
	n, err := s.Dirty(ctx, vm, point(1))
	require.NoError(t, err)
	require.EqualValues(t, model.ClusterSize, n)

	take(t, s, 2, 1)
	require.NoError(t, hv.Write(vm.UUID, "vda", block(2), 3*model.ClusterSize))
	src, err := s.Open(ctx, vm, point(2), "vda")
	require.NoError(t, err)
	got := make([]byte, model.BlockSize)
	require.NoError(t, src.ReadAt(ctx, got, 3*model.ClusterSize))
	require.Equal(t, block(1), got)
	var dirty []blockio.Extent
	require.NoError(t, src.Map(ctx, blockio.DirtyBitmap, 0, src.Size(), func(e blockio.Extent) error {
		if e.Kind == blockio.Dirty {
			dirty = append(dirty, e)
		}
		return nil
	}))
	require.Equal(t, []blockio.Extent{{Offset: 3 * model.ClusterSize, Length: model.ClusterSize, Kind: blockio.Dirty}}, dirty)
	require.NoError(t, src.Close())

	_, err = s.Open(ctx, vm, point(2), "vdz")
	require.Equal(t, model.NotFound, model.KindOf(err))
	_, err = s.Open(ctx, vm, point(1), "vda")
	require.Equal(t, model.StagingLost, model.KindOf(err), "the cycle begins again")
	require.NoError(t, hv.Kill(vm.UUID))
	_, err = s.Open(ctx, vm, point(2), "vda")
	require.Equal(t, model.NotRunning, model.KindOf(err))
	n, err = s.Dirty(ctx, vm, point(1))
	require.NoError(t, err)
	require.EqualValues(t, -1, n)
}

func TestWhatAPointDoesNotHoldIsSaidBeforehand(t *testing.T) {
	ctx := context.Background()
	hv, dir := fake.New(), t.TempDir()
	require.NoError(t, hv.CreateImage(filepath.Join(dir, "vda.raw"), model.FormatRaw, 1<<20))
	_, err := hv.Define(ctx, `<domain type='qemu'><name>db1</name><uuid>`+vm.UUID+`</uuid><os><kernel>/boot/vmlinuz</kernel><nvram>/v.fd</nvram></os><devices>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='`+dir+`/vda.raw'/><target dev='vda' bus='virtio'/></disk>
<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='/seed.iso'/><target dev='sda' bus='sata'/></disk>
<tpm model='tpm-crb'/></devices></domain>`)
	require.NoError(t, err)
	got, err := newDirs(t).warnings(hv)
	require.NoError(t, err)
	require.Len(t, got, 5)
	for i, want := range []string{"disk vda: a raw image", "sda (/seed.iso) is not replicated", "kernel /boot/vmlinuz", "UEFI variables", "virtual TPM"} {
		require.Contains(t, got[i], want)
	}
}

func (d dirs) warnings(hv snapshot.Hypervisor) ([]string, error) {
	return snapshot.New(hv, snapshot.Options{Host: "host-a", RunDir: d.run, StateDir: d.state}).Warnings(context.Background(), vm.UUID)
}
