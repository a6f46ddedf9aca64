package recoverypoint

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/blockio/blockiotest"
	"understudy/internal/blockio/qemuimg"
	"understudy/internal/model"
	"understudy/internal/verify"
)

// leave writes a disk's bytes as an image that a VM has left: a qcow2 overlay on a base, or raw.
func leave(t *testing.T, dir, target string, base, now []byte, format model.DiskFormat) Left {
	t.Helper()
	raw, below := filepath.Join(dir, target+".raw"), filepath.Join(dir, target+"-base.qcow2")
	l := Left{Target: target, Path: filepath.Join(dir, target+"."+string(format)), Format: format}
	run := func(args ...string) {
		out, err := exec.Command("qemu-img", args...).CombinedOutput()
		require.NoError(t, err, string(out))
	}
	require.NoError(t, os.WriteFile(raw, base, 0o600))
	if format == model.FormatRaw {
		require.NoError(t, os.WriteFile(l.Path, now, 0o600))
		return l
	}
	run("convert", "-f", "raw", "-O", "qcow2", raw, below)
	require.NoError(t, os.WriteFile(raw, now, 0o600))
	run("convert", "-f", "raw", "-O", "qcow2", "-B", below, "-F", "qcow2", raw, l.Path)
	return l
}

func (g *rig) fill(p model.PointRef, left ...Left) error {
	ctx := context.Background()
	if _, err := g.store.Fill(ctx, vm1, p, left, func(int64, int64) {}); err != nil {
		return err
	}
	spec, err := g.store.StagedSpec(ctx, vm1, p)
	if err != nil {
		return err
	}
	receipt, err := verify.Prove(ctx, g.store, vm1, p, nil)
	if err != nil {
		return err
	}
	m := manifestOf(spec)
	m.Seed = true
	_, err = g.store.Commit(ctx, receipt, m)
	return err
}

// A host that the VM left makes a base of what lies there; only what differs is received, and the old disks stay as they are.
func TestTheFirstPointOnAReturningHostBuildsOnTheDisksThatTheVMLeftThere(t *testing.T) {
	g, dir, ctx := newRig(t), blockiotest.Folder(t), context.Background()
	base := make([]byte, 3*mib)
	g.disks["vda"], g.disks["vdb"] = make([]byte, 3*mib), make([]byte, mib)
	g.write("vda", 0, mib)
	copy(base, g.disks["vda"])
	g.write("vda", mib/2, 9000)
	g.write("vdb", 70_000, 5000)
	left := []Left{
		leave(t, dir, "vda", base, g.disks["vda"], model.FormatQCOW2), leave(t, dir, "vdb", nil, g.disks["vdb"], model.FormatRaw),
	}
	was, err := os.ReadFile(left[0].Path)
	require.NoError(t, err)

	require.NoError(t, g.fill(ref(7), left...))
	seed, err := g.store.SeedOf(ctx, vm1, 1)
	require.NoError(t, err)
	require.Equal(t, ref(7), seed)
	require.Empty(t, g.listed(), "nobody starts a VM from it")
	_, err = g.store.Point(ctx, vm1, ref(7))
	require.Equal(t, model.NotFound, model.KindOf(err))
	_, err = g.store.Activate(ctx, vm1, ref(7), "g2")
	require.Equal(t, model.NotFound, model.KindOf(err))

	g.write("vda", 2*mib, 4096)
	clear(g.disks["vda"][mib/2 : mib/2+8192])
	g.write("vdb", 0, 4096)
	spec := g.spec(8, 7)
	for i := range spec.Disks {
		spec.Disks[i].Mode = model.ModeResync
	}
	st, err := g.store.Stage(ctx, spec)
	require.NoError(t, err)
	for target, want := range map[string]int{"vda": 3, "vdb": 1} {
		runs, err := g.runs(ctx, st, target, 0)
		require.NoError(t, err)
		require.Len(t, runs, want, "what differs of %s", target)
	}
	require.NoError(t, st.Close())
	g.remember(8)
	require.NoError(t, g.receive(spec))
	require.NoError(t, g.proveAndCommit(spec))
	g.checkAll()
	g.reopen()
	g.checkAll()

	for seq := model.Seq(9); seq < 12; seq++ { // and goes as soon as nothing builds on it any more
		g.write("vda", int(seq)*8192, 4096)
		g.cycle(seq, seq-1)
	}
	_, postponed, err := g.store.Prune(ctx, vm1, 8)
	require.NoError(t, err)
	require.Empty(t, postponed)
	require.Equal(t, []model.Seq{8, 9, 10, 11}, g.listed())
	require.False(t, slices.ContainsFunc(g.store.vms[vm1.UUID].points, func(p model.Point) bool { return p.Seed }))
	g.checkAll()
	now, err := os.ReadFile(left[0].Path)
	require.NoError(t, err)
	require.Equal(t, was, now, "the rescue copy is never written")
}

func TestASeedThatIsInterruptedIsMadeAgain(t *testing.T) {
	g, dir := newRig(t), blockiotest.Folder(t)
	g.disks["vda"] = make([]byte, 3*mib)
	g.write("vda", 0, 2*mib)
	l := leave(t, dir, "vda", nil, g.disks["vda"], model.FormatRaw)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	_, err := g.store.Fill(ctx, vm1, ref(3), []Left{l}, func(int64, int64) { cancel() })
	require.Error(t, err)
	g.reopen()
	require.NoError(t, g.fill(ref(3), l))
	seed, err := g.store.SeedOf(context.Background(), vm1, 1)
	require.NoError(t, err)
	require.Equal(t, ref(3), seed)
	g.remember(3)
	g.checkAll()
}

func TestADiskWhoseBaseWouldHaveToBeGuessedIsNotSeeded(t *testing.T) {
	g, dir := newRig(t), blockiotest.Folder(t)
	leave(t, dir, "vda", make([]byte, mib), make([]byte, mib), model.FormatQCOW2)
	raw := filepath.Join(dir, "vda.raw")
	out, err := exec.Command("qemu-img", "create", "-f", "qcow2", filepath.Join(dir, "x.qcow2"), "1M").CombinedOutput()
	require.NoError(t, err, string(out))
	b, err := os.ReadFile(filepath.Join(dir, "x.qcow2"))
	require.NoError(t, err)
	// A header that names a file without its format, as a guest could not write but an old tool can.
	name := []byte(raw)
	at := 1000
	copy(b[at:], name)
	b[8+6], b[8+7] = byte(at>>8), byte(at)
	b[16+3] = byte(len(name))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "x.qcow2"), b, 0o600))
	_, err = g.store.Fill(context.Background(), vm1, ref(3), []Left{{Target: "vda", Path: filepath.Join(dir, "x.qcow2"), Format: model.FormatQCOW2}}, func(int64, int64) {})
	require.ErrorIs(t, err, qemuimg.ErrGuess)
	require.Equal(t, model.Unsupported, model.KindOf(err))
}

// A rescue copy that lies on an old point keeps what is below it, not what was received since.
func TestPointsAfterAHeldOneAreStillDropped(t *testing.T) {
	g, ctx := newRig(t), context.Background()
	g.disks["vda"] = make([]byte, mib)
	g.write("vda", 0, 65536)
	g.cycle(1, 0)
	g.cycle(2, 1)
	_, err := g.store.Activate(ctx, vm1, ref(2), "g2")
	require.NoError(t, err)
	g.write("vda", 4096, 4096)
	g.cycle(3, 2, "vda") // a base of its own, as after a role swap
	for seq := model.Seq(4); seq < 9; seq++ {
		g.write("vda", int(seq)*8192, 4096)
		g.cycle(seq, seq-1)
	}
	dropped, postponed, err := g.store.Prune(ctx, vm1, 3)
	require.NoError(t, err)
	require.Contains(t, postponed, "held by g2")
	require.Equal(t, []model.Seq{3, 4, 5}, dropped)
	require.Equal(t, []model.Seq{1, 2, 6, 7, 8}, g.listed())
	g.checkPoints()
	g.checkTables()
	require.NoError(t, g.store.Deactivate(ctx, vm1, "g2"))
	_, postponed, err = g.store.Prune(ctx, vm1, 3)
	require.NoError(t, err)
	require.Empty(t, postponed)
	require.Equal(t, []model.Seq{6, 7, 8}, g.listed())
	g.checkAll()
}

// The same where the later points lie on the held one.
func TestPointsThatLieOnAHeldOneAreDroppedWithoutTouchingIt(t *testing.T) {
	g, ctx := newRig(t), context.Background()
	g.disks["vda"] = make([]byte, mib)
	g.write("vda", 0, 65536)
	g.cycle(1, 0)
	g.cycle(2, 1)
	held, err := g.store.Images(ctx, vm1, ref(2))
	require.NoError(t, err)
	require.NoError(t, g.store.PutHold(ctx, vm1, model.Hold{Name: "export", Point: ref(2), Why: "test"}))
	for seq := model.Seq(3); seq < 7; seq++ {
		g.write("vda", int(seq)*8192, 4096)
		g.cycle(seq, seq-1)
	}
	dropped, _, err := g.store.Prune(ctx, vm1, 2)
	require.NoError(t, err)
	require.Equal(t, []model.Seq{3, 4}, dropped)
	now, err := g.store.Images(ctx, vm1, ref(2))
	require.NoError(t, err)
	require.Equal(t, held, now)
	g.checkAll()
}

func TestADiskAsItWasAtAPointCanBeRead(t *testing.T) {
	g, ctx := newRig(t), context.Background()
	g.disks["vda"] = make([]byte, mib)
	g.write("vda", 0, 8192)
	g.cycle(1, 0)
	g.write("vda", 4096, 4096)
	g.cycle(2, 1)
	for seq := model.Seq(1); seq <= 2; seq++ {
		disks, closing, err := g.store.OpenPoint(ctx, vm1, ref(seq))
		require.NoError(t, err)
		got := make([]byte, mib)
		require.NoError(t, disks["vda"].ReadAt(ctx, got, 0))
		closing()
		require.True(t, slices.Equal(g.seen[seq]["vda"], got))
	}
	_, closing, err := g.store.OpenPoint(ctx, vm1, ref(3))
	require.Equal(t, model.NotFound, model.KindOf(err))
	closing()
}
