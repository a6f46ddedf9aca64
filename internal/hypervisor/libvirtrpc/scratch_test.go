package libvirtrpc

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/internal/model"
)

func TestAnEmptyImageIsWhatQEMUWouldMake(t *testing.T) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("needs qemu-img: run make deps")
	}
	for _, size := range []int64{512, 1 << 20, 1<<29 - 512, 1 << 29, 1<<29 + 1, 3 << 40, model.MaxDiskSize} {
		b, err := emptyQCOW2(size)
		require.NoError(t, err, size)
		path := filepath.Join(t.TempDir(), "x.qcow2")
		require.NoError(t, writeNew(path, b))
		require.Error(t, writeNew(path, b), "never over another file")
		out, err := exec.Command("qemu-img", "check", "-q", path).CombinedOutput()
		require.NoError(t, err, "%d: %s", size, out)
		var info struct {
			Format string `json:"format"`
			Size   int64  `json:"virtual-size"`
		}
		out, err = exec.Command("qemu-img", "info", "--output=json", path).Output()
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(out, &info))
		require.Equal(t, "qcow2", info.Format)
		require.Equal(t, (size+511)/512*512, info.Size)
		if size <= 1<<30 { // QEMU can write into it, and it stays whole
			out, err = exec.Command("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 512", path).CombinedOutput()
			require.NoError(t, err, string(out))
			out, err = exec.Command("qemu-img", "check", "-q", path).CombinedOutput()
			require.NoError(t, err, string(out))
		}
		require.NoError(t, os.Remove(path))
	}
	_, err := emptyQCOW2(0)
	require.Error(t, err)
}
