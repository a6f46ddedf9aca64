package recoverypoint

import (
	"context"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/internal/model"
)

// A block of a committed image rots on the standby's disk. Its recorded digest says that all is well; a resync that a person
// asked for reads the disk, and the block is sent again.
func TestAResyncThatReadsTheReplicaFindsWhatRottedThere(t *testing.T) {
	ctx := context.Background()
	g := newRig(t)
	g.disks["vda"] = make([]byte, 4*mib)
	g.write("vda", 0, 2*mib)
	g.cycle(1, 0)
	g.write("vda", mib, 4096)
	g.cycle(2, 1)

	base := ""
	img := g.store.mustImage(t, vm1, ref(2), "vda")
	for _, l := range img.Layers {
		if l.Format == model.FormatRaw {
			base = l.Path
		}
	}
	require.NotEmpty(t, base)
	f, err := os.OpenFile(base, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("rotten"), 40*model.BlockSize)
	require.NoError(t, err)
	require.NoError(t, f.Close())

	for _, c := range []struct {
		reread bool
		found  int
	}{{false, 0}, {true, 1}} {
		spec := g.spec(3, 2)
		spec.Disks[0].Mode, spec.Disks[0].Reread = model.ModeResync, c.reread
		st, err := g.store.Stage(ctx, spec)
		require.NoError(t, err)
		runs, err := g.runs(ctx, st, "vda", 0)
		require.NoError(t, err)
		require.NoError(t, st.Close())
		require.Len(t, runs, c.found)
		if c.reread {
			require.Equal(t, 40*model.BlockSize, runs[0].off)
			require.NoError(t, g.receive(spec))
			require.NoError(t, g.proveAndCommit(spec))
		}
	}
}

func (s *Store) mustImage(t *testing.T, vm model.VMRef, p model.PointRef, target string) model.Image {
	images, err := s.Images(context.Background(), vm, p)
	require.NoError(t, err)
	for _, i := range images {
		if i.Target == target {
			return i
		}
	}
	t.Fatal("no such disk")
	return model.Image{}
}
