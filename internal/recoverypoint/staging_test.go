package recoverypoint

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"understudy/internal/blockio/blockiotest"
	"understudy/internal/model"
	"understudy/internal/verify"
)

// killed leaves the staging area as a kill of the agent and of its qemu-nbd would: nothing more is journaled.
func killed(t *testing.T, g *rig, st *Staging) {
	for _, d := range st.disks {
		if d.server != nil {
			require.NoError(t, syscall.Kill(d.server.Pid(), syscall.SIGKILL))
			<-d.server.Done()
		}
	}
	st.mu.Lock()
	st.dead = model.Fail(model.Internal, nil, "killed")
	st.mu.Unlock()
	g.reopen()
}

func TestAKilledAgentResumesWhatTheStandbyAcknowledged(t *testing.T) {
	for _, mode := range []model.DiskMode{model.ModeFull, model.ModeResync} {
		t.Run(string(mode), func(t *testing.T) {
			ctx := context.Background()
			g := newRig(t)
			g.disks["vda"] = make([]byte, 4*mib)
			g.write("vda", 0, mib)
			g.cycle(1, 0)
			g.write("vda", 0, 4*mib)
			clear(g.disks["vda"][2*mib : 2*mib+100*4096])
			spec := g.spec(2, 1)
			spec.Disks[0].Mode = mode
			g.remember(2)
			from := int64(0)
			for _, kill := range []int{mib + 4096, 3 * mib} { // twice, in different places
				st, err := g.store.Stage(ctx, spec)
				require.NoError(t, err)
				require.Equal(t, from, st.Acked()["vda"])
				runs, err := g.runs(ctx, st, "vda", from)
				require.NoError(t, err)
				acked := kill - 64*4096
				for _, r := range runs {
					if r.off >= kill {
						break
					}
					if r.off == acked {
						st.disks[0].last = time.Time{} // due for the journal
						require.NoError(t, st.Ack(ctx, "vda", int64(r.off)))
					}
					require.NoError(t, sendRun(ctx, st, "vda", r))
				}
				require.NoError(t, st.Ack(ctx, "vda", int64(kill)))
				killed(t, g, st)
				from = int64(acked)
			}
			st, err := g.store.Stage(ctx, spec)
			require.NoError(t, err)
			require.Equal(t, from, st.Acked()["vda"])
			require.NoError(t, st.Close())
			require.NoError(t, g.receive(spec))
			require.NoError(t, g.receive(spec), "complete already: nothing to do")
			require.NoError(t, g.proveAndCommit(spec))
			g.checkAll()
		})
	}
}

func TestAnAcknowledgementInTheMiddleCoversOnlyWhatItSays(t *testing.T) {
	ctx := context.Background()
	g := newRig(t)
	g.disks["vda"] = make([]byte, mib)
	g.write("vda", 0, mib)
	spec := g.spec(1, 0)
	g.remember(1)
	st, err := g.store.Stage(ctx, spec)
	require.NoError(t, err)
	runs, err := g.runs(ctx, st, "vda", 0)
	require.NoError(t, err)
	for _, r := range runs[:200] { // the sender is ahead of its acknowledgements
		require.NoError(t, sendRun(ctx, st, "vda", r))
	}
	st.disks[0].last = time.Time{}
	require.NoError(t, st.Ack(ctx, "vda", 100*4096))
	require.Equal(t, int64(100*4096), st.Acked()["vda"])
	require.NoError(t, st.Close())
	require.NoError(t, g.receive(spec))
	require.NoError(t, g.proveAndCommit(spec))
	g.checkAll()
}

func TestWhatWasStagedBeforeARebootOrOfAnotherCaptureIsDropped(t *testing.T) {
	ctx := context.Background()
	g := newRig(t)
	g.disks["vda"] = make([]byte, mib)
	g.write("vda", 0, mib)
	spec := g.spec(1, 0)
	require.NoError(t, g.receive(spec))
	_, images, err := g.store.Staged(ctx, vm1, spec.PointRef)
	require.NoError(t, err)
	require.Len(t, images, 1)

	g.boot = "boot-2"
	g.reopen()
	_, _, err = g.store.Staged(ctx, vm1, spec.PointRef)
	require.Equal(t, model.StagingLost, model.KindOf(err))
	g.checkFiles()

	require.NoError(t, g.receive(spec))
	spec.Capture = "another"
	st, err := g.store.Stage(ctx, spec)
	require.NoError(t, err)
	require.Zero(t, st.Acked()["vda"])
	require.NoError(t, g.store.Discard(ctx, vm1, spec.PointRef))
	require.Equal(t, model.StagingLost, model.KindOf(sendRun(ctx, st, "vda", run{data: g.disks["vda"]})))
	_, err = g.store.Commit(ctx, model.Receipt{VM: vm1, PointRef: spec.PointRef, ProvedAt: time.Now()}, manifestOf(spec))
	require.Equal(t, model.StagingLost, model.KindOf(err))
	require.NoError(t, g.store.Discard(ctx, vm1, spec.PointRef))
}

func TestStagingRefusesWhatDoesNotFit(t *testing.T) {
	ctx := context.Background()
	g := newRig(t)
	g.disks["vda"] = make([]byte, mib)
	g.write("vda", 0, 100000)
	spec := g.spec(1, 0)
	refused := func(kind model.Kind, change func(*model.StagingSpec)) {
		t.Helper()
		s := spec
		s.Disks = slices.Clone(spec.Disks)
		change(&s)
		_, err := g.store.Stage(ctx, s)
		require.Error(t, err)
		require.Equal(t, kind, model.KindOf(err), "%v", err)
	}
	refused(model.ChainBroken, func(s *model.StagingSpec) { s.Seq, s.Parent, s.Disks[0].Mode = 2, 1, model.ModeDelta })
	g.cycle(1, 0)
	g.cycle(2, 1)
	spec = g.spec(3, 2)
	spec.Generation = 2
	st, err := g.store.Stage(ctx, spec)
	require.NoError(t, err)
	require.NoError(t, st.Close())
	g.reopen() // the generation is remembered
	refused(model.StaleGeneration, func(s *model.StagingSpec) { s.Generation = 1 })
	refused(model.ChainBroken, func(s *model.StagingSpec) { s.Parent = 1 })
	refused(model.ChainBroken, func(s *model.StagingSpec) { s.Disks[0].Size -= 4096 })
	refused(model.ChainBroken, func(s *model.StagingSpec) {
		s.Disks = append(s.Disks, model.StagingDisk{Target: "vdb", Size: mib, Mode: model.ModeResync})
	})
	refused(model.Conflict, func(s *model.StagingSpec) { s.Seq, s.Parent = 2, 1 })
	refused(model.InvalidArgument, func(s *model.StagingSpec) { s.Disks[0].Size = model.MaxDiskSize + 512 })
	refused(model.InvalidArgument, func(s *model.StagingSpec) { s.Disks[0].Size = 0 })
	refused(model.InvalidArgument, func(s *model.StagingSpec) { s.Disks[0].Target = "../x" })
	refused(model.InvalidArgument, func(s *model.StagingSpec) { s.VM.UUID = "../../etc" })
	g.store.opts.Reserve = 1 << 60
	refused(model.TargetFull, func(*model.StagingSpec) {})
	g.store.opts.Reserve = 0
	g.checkAll()

	st, err = g.store.Stage(ctx, spec)
	require.NoError(t, err)
	defer st.Close()
	wrong := func(err error) {
		t.Helper()
		require.Equal(t, model.InvalidArgument, model.KindOf(err), "%v", err)
	}
	block := make([]byte, 4096)
	one := make([]model.Digest, 1)
	wrong(st.Write(ctx, "vdz", 0, block, one))
	wrong(st.Write(ctx, "vda", 100, block, one))
	wrong(st.Write(ctx, "vda", mib, block, one))
	wrong(st.Write(ctx, "vda", 0, block, nil))
	wrong(st.WriteZeroes(ctx, "vda", 0, 2*mib))
	wrong(st.Ack(ctx, "vda", -1))
	require.NoError(t, st.WriteZeroes(ctx, "vda", 8192, 8192))
	wrong(st.Write(ctx, "vda", 0, block, one))
}

func TestAByteThatChangedBehindOurBackIsNoticed(t *testing.T) {
	ctx := context.Background()
	g := newRig(t)
	g.disks["vda"], g.disks["vdb"] = make([]byte, mib), make([]byte, mib)
	g.write("vda", 0, 200000)
	g.write("vdb", 0, 200000)
	spec := g.spec(1, 0)
	flip := func(path string, off int64) {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		require.NoError(t, err)
		var p [1]byte
		_, err = f.ReadAt(p[:], off)
		require.NoError(t, err)
		p[0] ^= 1
		_, err = f.WriteAt(p[:], off)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	staged := func(spec model.StagingSpec, file string) string {
		return filepath.Join(home(filepath.Join(g.root, vm1.UUID)).staging(spec.PointRef), file)
	}
	for _, off := range []int64{4096, 900000} { // in what was written, and where nothing was
		require.NoError(t, g.receive(spec))
		flip(staged(spec, "vdb.raw"), off)
		_, err := verify.Prove(ctx, g.store, vm1, spec.PointRef, nil)
		require.Equal(t, model.VerifyMismatch, model.KindOf(err))
		require.ErrorContains(t, err, "vdb")
		require.ErrorContains(t, err, fmt.Sprint(off))
		require.NoError(t, g.store.Discard(ctx, vm1, spec.PointRef))
	}
	g.cycle(1, 0)

	g.write("vda", 4096, 4096)
	spec = g.spec(2, 1)
	g.remember(2)
	require.NoError(t, g.receive(spec))
	image, err := os.ReadFile(staged(spec, "vda.qcow2"))
	require.NoError(t, err)
	at := int64(-1)
	for off := 0; off < len(image); off += 4096 {
		if slices.Equal(image[off:off+4096], g.disks["vda"][4096:8192]) {
			at = int64(off)
		}
	}
	require.Positive(t, at)
	flip(staged(spec, "vda.qcow2"), at)
	_, err = verify.Prove(ctx, g.store, vm1, spec.PointRef, nil)
	require.Equal(t, model.VerifyMismatch, model.KindOf(err), "%v", err)
	flip(staged(spec, "vda.qcow2"), at)
	receipt, err := verify.Prove(ctx, g.store, vm1, spec.PointRef, nil)
	require.NoError(t, err)

	flip(staged(spec, "vda.log"), logHeaderSize+40)
	_, err = verify.Prove(ctx, g.store, vm1, spec.PointRef, nil)
	require.Equal(t, model.VerifyMismatch, model.KindOf(err), "%v", err)
	_, err = g.store.Commit(ctx, receipt, manifestOf(spec))
	require.Equal(t, model.VerifyMismatch, model.KindOf(err), "the receipt is for another log")
	flip(staged(spec, "vda.log"), logHeaderSize+40)

	other := receipt
	other.Disks = slices.Clone(receipt.Disks)
	other.Disks[0].Log = "00"
	_, err = g.store.Commit(ctx, other, manifestOf(spec))
	require.Equal(t, model.VerifyMismatch, model.KindOf(err))
	_, err = g.store.Commit(ctx, receipt, manifestOf(spec))
	require.NoError(t, err)
	again, err := g.store.Commit(ctx, receipt, manifestOf(spec))
	require.NoError(t, err, "committed once, however often it is asked for")
	require.NotEmpty(t, again.Disks[0].StateDigest)
	g.checkAll()
}

func TestAFullStandbyKeepsItsPointsAndDropsWhatDidNotFit(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounts a file system")
	}
	ctx := context.Background()
	blockiotest.Tool(t, "qemu-nbd")
	small := blockiotest.Folder(t)
	if err := unix.Mount("none", small, "tmpfs", 0, "size=12m,mode=0700"); err != nil {
		t.Skipf("cannot mount: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(small, unix.MNT_DETACH) })
	g := newRig(t)
	require.NoError(t, g.store.Close())
	g.root = filepath.Join(small, "s")
	g.open()
	g.disks["vda"] = make([]byte, 16*mib)
	g.write("vda", 0, 4*mib)
	g.cycle(1, 0)
	before, _, err := g.store.Usage()
	require.NoError(t, err)
	g.write("vda", 0, 16*mib)
	for _, full := range []string{"", "vda"} {
		err := g.receive(g.spec(2, 1, full))
		require.Equal(t, model.TargetFull, model.KindOf(err), "%v", err)
		g.checkAll()
		after, _, err := g.store.Usage()
		require.NoError(t, err)
		require.InDelta(t, before, after, 300<<10)
	}
	spec := g.spec(2, 1)
	spec.Disks[0].Expect = 14 * mib
	_, err = g.store.Stage(ctx, spec)
	require.Equal(t, model.TargetFull, model.KindOf(err), "known before the first byte")
	g.disks["vda"] = slices.Clone(g.seen[1]["vda"])
	g.write("vda", 5*mib, mib)
	g.cycle(2, 1)
	g.checkAll()
}
