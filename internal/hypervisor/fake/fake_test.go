package fake_test

import (
	"bytes"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

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
		RestartDaemon: func(testing.TB) { h.Reconnect() },
	})
}
