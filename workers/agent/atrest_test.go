package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"understudy/internal/model"
)

// device writes a block device as /sys/dev/block shows it.
func device(t *testing.T, sys, dev, dmUUID string, below ...string) {
	dir := filepath.Join(sys, dev)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "dm"), 0o755))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "slaves"), 0o755))
	if dmUUID != "" {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "dm", "uuid"), []byte(dmUUID+"\n"), 0o644))
	}
	for _, b := range below {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "slaves", b), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "slaves", b, "dev"), []byte(b+"\n"), 0o644))
	}
}

func TestEncryptionIsFoundUnderTheVolumeManagerAndMustBeUnderAllOfIt(t *testing.T) {
	sys := t.TempDir()
	device(t, sys, "8:1", "")
	device(t, sys, "8:17", "")
	device(t, sys, "253:0", "CRYPT-LUKS2-abc-vms", "8:1")
	device(t, sys, "253:1", "LVM-x", "253:0")
	device(t, sys, "253:2", "LVM-y", "253:0", "8:17")
	device(t, sys, "253:3", "LVM-z", "253:3")
	for dev, want := range map[string]bool{"8:1": false, "253:0": true, "253:1": true, "253:2": false, "253:3": false} {
		got, err := encrypted(sys, dev, maxLayers)
		require.NoError(t, err)
		require.Equal(t, want, got, dev)
	}
	var at unix.Stat_t
	require.NoError(t, unix.Stat(sys, &at))
	s := &self{opts: Options{StateDir: sys}, sys: sys}
	require.Empty(t, s.AtRest(), "what cannot be told is not promised")
	own := fmt.Sprintf("%d:%d", unix.Major(at.Dev), unix.Minor(at.Dev))
	device(t, sys, own, "")
	require.Equal(t, model.AtRestPlain, s.AtRest())
	device(t, sys, own, "CRYPT-LUKS2-abc-state")
	require.Equal(t, model.AtRestEncrypted, s.AtRest())

	_, err := encrypted(sys, "0:42", maxLayers)
	require.Error(t, err, "a tmpfs or a network file system")
}
