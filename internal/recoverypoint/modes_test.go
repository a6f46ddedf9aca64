package recoverypoint

import (
	"io/fs"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// Replicas are whole disks: nobody else reads them, whatever the umask of the agent and of the tools that it runs.
func TestNobodyElseReadsTheStore(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	g := newRig(t)
	g.disks["vda"], g.disks["vdb"] = make([]byte, 1<<20), make([]byte, 1<<20)
	g.write("vda", 0, 1<<16)
	g.cycle(1, 0, "vda", "vdb")
	g.write("vda", 0, 1<<12)
	g.cycle(2, 1)
	seen := 0
	require.NoError(t, filepath.WalkDir(g.store.root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		seen++
		require.Zero(t, info.Mode().Perm()&0o077, "%s has mode %04o", path, info.Mode().Perm())
		return nil
	}))
	require.Greater(t, seen, 10)
}
