package recoverypoint

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/internal/blockio/blockiotest"
	"understudy/internal/decide/retention"
	"understudy/internal/durable"
	"understudy/internal/model"
)

func fivePoints(t *testing.T) *rig {
	g := newRig(t)
	g.disks["vda"], g.disks["vdb"] = make([]byte, mib), make([]byte, mib)
	for seq := model.Seq(1); seq <= 5; seq++ {
		g.write("vda", int(seq)*40000, 30000)
		g.write("vdb", int(seq)*4096, 4096)
		g.cycle(seq, seq-1)
	}
	return g
}

func TestAVMRunsOnAPointWithoutChangingIt(t *testing.T) {
	ctx := context.Background()
	g := fivePoints(t)
	disks, err := g.store.Activate(ctx, vm1, ref(3), "g2")
	require.NoError(t, err)
	require.Len(t, disks, 2)
	for _, d := range disks {
		require.True(t, filepath.IsAbs(d.Path))
		st, err := os.Stat(d.Path)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), st.Mode().Perm())
	}
	img := model.Image{Target: "vda", Size: mib, Layers: []model.ImageLayer{{Path: disks[0].Path, Format: model.FormatQCOW2}}}
	images, err := g.store.Images(ctx, vm1, ref(3))
	require.NoError(t, err)
	img.Layers = append(img.Layers, images[0].Layers...)
	require.Equal(t, g.seen[3]["vda"], g.readImage(img))
	server, client, err := g.store.serve(ctx, img, false) // stands for the VM
	require.NoError(t, err)
	require.NoError(t, client.WriteAt(ctx, []byte("the guest wrote this"), 0))

	again, err := g.store.Activate(ctx, vm1, ref(3), "g2")
	require.NoError(t, err)
	require.Equal(t, disks, again)
	_, err = g.store.Activate(ctx, vm1, ref(4), "g2")
	require.Equal(t, model.Conflict, model.KindOf(err))
	require.Equal(t, model.Conflict, model.KindOf(g.store.Deactivate(ctx, vm1, "g2")))
	require.Equal(t, model.Conflict, model.KindOf(g.store.Remove(ctx, vm1)))
	require.Equal(t, model.Conflict, model.KindOf(g.store.Release(ctx, vm1, "g2")))
	_, postponed, err := g.store.Prune(ctx, vm1, 2)
	require.NoError(t, err)
	require.Contains(t, postponed, "g1-s3")

	require.NoError(t, client.Flush(ctx))
	require.NoError(t, client.Close())
	require.NoError(t, server.Stop(ctx))
	g.reopen() // nothing of it is forgotten, and nothing is overwritten
	_, err = g.store.Activate(ctx, vm1, ref(3), "g2")
	require.NoError(t, err)
	require.Equal(t, "the guest wrote this", string(g.readImage(img)[:20]))
	g.checkAll()

	require.NoError(t, g.store.Deactivate(ctx, vm1, "g2"))
	require.NoError(t, g.store.Deactivate(ctx, vm1, "g2"))
	holds, err := g.store.Holds(ctx, vm1)
	require.NoError(t, err)
	require.Empty(t, holds)
	dropped, postponed, err := g.store.Prune(ctx, vm1, 2)
	require.NoError(t, err)
	require.Empty(t, postponed)
	require.Equal(t, []model.Seq{1, 2, 3}, dropped)
	g.checkAll()
	require.NoError(t, g.store.Remove(ctx, vm1))
	require.NoError(t, g.store.Remove(ctx, vm1))
	require.Empty(t, g.listed())
	left, err := os.ReadDir(g.root)
	require.NoError(t, err)
	for _, e := range left {
		require.True(t, e.Name() == lockFile || e.Name() == runDir, e.Name())
	}
	g.cycle(1, 0)
	g.checkAll()
}

// The old primary died while it sent a point: a test on the standby leaves what came of it alone, a takeover does not.
func TestATakeoverDropsWhatTheOldPrimaryHadNotFinished(t *testing.T) {
	ctx := context.Background()
	g := fivePoints(t)
	_, err := g.store.Stage(ctx, g.spec(6, 5))
	require.NoError(t, err)
	staged := func() int {
		entries, err := os.ReadDir(filepath.Join(g.store.Root(), vm1.UUID, "staging"))
		require.NoError(t, err)
		return len(entries)
	}
	_, err = g.store.Activate(ctx, vm1, ref(5), "t1")
	require.NoError(t, err)
	require.Equal(t, 1, staged())
	_, err = g.store.Activate(ctx, vm1, ref(5), "g2")
	require.NoError(t, err)
	require.Zero(t, staged())
}

func TestActivationThatWasCutOffIsCompletedByTheNext(t *testing.T) {
	ctx := context.Background()
	g := fivePoints(t)
	for _, step := range []string{"hold", "held", "overlay-vda", "overlay-vdb", "trash", "trashed", "release"} {
		g.store.opts.Fault = func(s string) error {
			if s == step {
				return errDied
			}
			return nil
		}
		_, err := g.store.Activate(ctx, vm1, ref(5), "g2")
		if err == nil {
			require.Error(t, g.store.Deactivate(ctx, vm1, "g2"), step)
		}
		g.reopen()
		disks, err := g.store.Activate(ctx, vm1, ref(5), "g2")
		require.NoError(t, err, step)
		require.FileExists(t, disks[0].Path)
		require.FileExists(t, disks[1].Path)
		require.NoError(t, g.store.Deactivate(ctx, vm1, "g2"))
	}
	g.checkAll()
}

func TestRetentionWaitsForWhatIsInUse(t *testing.T) {
	ctx := context.Background()
	g := fivePoints(t)
	require.NoError(t, g.store.PutHold(ctx, vm1, model.Hold{Name: "test-1", Point: ref(2), Why: "a test failover"}))
	require.Equal(t, model.NotFound, model.KindOf(g.store.PutHold(ctx, vm1, model.Hold{Name: "x", Point: ref(9)})))
	_, postponed, err := g.store.Prune(ctx, vm1, 2)
	require.NoError(t, err)
	require.Contains(t, postponed, "test failover")
	require.NoError(t, g.store.Release(ctx, vm1, "test-1"))

	g.write("vda", 0, 4096)
	spec := g.spec(6, 5)
	g.remember(6)
	st, err := g.store.Stage(ctx, spec)
	require.NoError(t, err)
	_, postponed, err = g.store.Prune(ctx, vm1, 2)
	require.NoError(t, err)
	require.Contains(t, postponed, "being received")
	require.NoError(t, st.Close())

	images, err := g.store.Images(ctx, vm1, ref(5))
	require.NoError(t, err)
	src, err := g.store.OpenImage(ctx, images[0]) // somebody reads the chain
	require.NoError(t, err)
	_, postponed, err = g.store.Prune(ctx, vm1, 2)
	require.NoError(t, err)
	require.NotEmpty(t, postponed)
	require.NoError(t, src.Close())
	require.FileExists(t, g.store.vms[vm1.UUID].home.plan())
	g.checkPoints()

	require.NoError(t, g.receive(spec)) // what was begun is no obstacle for the next point
	require.NoError(t, g.proveAndCommit(spec))
	g.reopen() // and is ended when the store is opened
	g.store.plans.Wait()
	require.NoFileExists(t, g.store.vms[vm1.UUID].home.plan())
	_, _, err = g.store.Prune(ctx, vm1, 2)
	require.NoError(t, err)
	require.Equal(t, []model.Seq{5, 6}, g.listed())
	g.checkAll()
}

func TestADamagedReplicaIsRefusedAndNothingOfItIsDeleted(t *testing.T) {
	ctx := context.Background()
	g := fivePoints(t)
	h := g.store.vms[vm1.UUID].home
	require.NoError(t, g.store.Close())
	for _, path := range []string{h.chain(), h.point(3)} {
		good, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, durable.WriteFile(path, good[:len(good)/2]))
		g.open()
		_, err = g.store.Stage(ctx, g.spec(6, 5))
		require.Equal(t, model.ChainBroken, model.KindOf(err))
		require.NoError(t, g.store.Close())
		require.NoError(t, durable.WriteFile(path, good))
	}
	g.open()
	g.checkAll()
	require.NoError(t, os.WriteFile(h.digests("vda"), []byte("damaged"), 0o600))
	g.reopen()
	_, err := g.store.Stage(ctx, g.spec(6, 5))
	require.Equal(t, model.ChainBroken, model.KindOf(err), "a full copy heals it")
	g.cycle(6, 5, "vda")
	g.checkAll()
}

func TestOnlyOneAgentHasTheStoreOpen(t *testing.T) {
	g := newRig(t)
	_, err := Open(g.root, Options{})
	require.Equal(t, model.Conflict, model.KindOf(err))
}

// The commands of docs/RECOVERY_POINT_FORMAT.md, tried.
func TestAPersonWithQemuImgAloneRestoresADisk(t *testing.T) {
	doc, err := os.ReadFile("../../docs/RECOVERY_POINT_FORMAT.md")
	require.NoError(t, err)
	g := fivePoints(t)
	require.NoError(t, g.store.Close())
	blockiotest.Tool(t, "qemu-img")
	blockiotest.Tool(t, "jq")
	_, after, ok := strings.Cut(string(doc), "```sh\n")
	require.True(t, ok)
	script, _, ok := strings.Cut(after, "```")
	require.True(t, ok)
	out := blockiotest.Folder(t)
	moved := filepath.Join(blockiotest.Folder(t), "elsewhere") // the folder may be moved as a whole
	require.NoError(t, os.Rename(filepath.Join(g.root, vm1.UUID), moved))
	script = "set -eu\nREPLICA=" + moved + " SEQ=4 OUT=" + out + "\n" + script
	t.Log(blockiotest.Run(t, "sh", "-c", script))
	for _, target := range []string{"vda", "vdb"} {
		p, err := os.ReadFile(filepath.Join(out, target+".raw"))
		require.NoError(t, err)
		require.True(t, slices.Equal(g.seen[4][target], p), target)
	}
	xml, err := os.ReadFile(filepath.Join(out, "domain.xml"))
	require.NoError(t, err)
	require.Equal(t, "<domain/>\n", string(xml))
}

func TestPointsOfHoursStayWhileThoseAroundThemAreDropped(t *testing.T) {
	g := newRig(t)
	g.disks["vda"] = make([]byte, mib)
	for seq := model.Seq(1); seq <= 7; seq++ { // from 22:33 to 00:33
		g.write("vda", int(seq)*8192, 20000)
		g.cycle(seq, seq-1)
	}
	dropped, postponed, err := g.store.PruneTo(t.Context(), vm1, retention.Rules{Last: 2, Hourly: 3})
	require.NoError(t, err)
	require.Empty(t, postponed)
	require.Equal(t, []model.Seq{1, 3, 4}, dropped)
	require.Equal(t, []model.Seq{2, 5, 6, 7}, g.listed())
	g.checkAll()
}
