package recoverypoint

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/blockio/blockiotest"
	"understudy/internal/blockio/digest"
	"understudy/internal/model"
	"understudy/internal/verify"
)

const mib = 1 << 20

var vm1 = model.VMRef{Name: "db1", UUID: "6f0c5b0e-8f53-4a3c-9c0a-0d6f5f2f9a11"}

// rig is a VM whose disks are in memory and a store that receives them.
type rig struct {
	t     *testing.T
	root  string
	boot  string
	fault func(step string) error
	store *Store
	disks map[string][]byte               // as they are now
	seen  map[model.Seq]map[string][]byte // as they were at each point
	rand  *rand.Rand
}

func newRig(t *testing.T) *rig {
	blockiotest.Tool(t, "qemu-nbd")
	g := &rig{t: t, root: blockiotest.Folder(t), boot: "boot-1", disks: map[string][]byte{}, seen: map[model.Seq]map[string][]byte{}, rand: rand.New(rand.NewPCG(1, 2))}
	g.open()
	return g
}

func (g *rig) open() {
	s, err := Open(g.root, Options{Reserve: -1, BootID: g.boot, Fault: g.fault})
	require.NoError(g.t, err)
	g.store = s
	g.t.Cleanup(func() { _ = s.Close() })
}

func (g *rig) reopen() {
	require.NoError(g.t, g.store.Close())
	g.open()
}

func (g *rig) write(target string, off, length int) {
	for i := range length {
		g.disks[target][off+i] = byte(g.rand.Uint32()) | 1
	}
}

func ref(seq model.Seq) model.PointRef { return model.PointRef{Generation: 1, Seq: seq} }

// spec stages all disks; a disk named in full has that mode.
func (g *rig) spec(seq, parent model.Seq, full ...string) model.StagingSpec {
	s := model.StagingSpec{VM: vm1, PointRef: ref(seq), Parent: parent, Capture: fmt.Sprintf("capture-%d", seq)}
	for _, target := range slices.Sorted(maps.Keys(g.disks)) {
		d := model.StagingDisk{Target: target, Size: int64(len(g.disks[target])), Mode: model.ModeDelta}
		if parent == 0 || slices.Contains(full, target) {
			d.Mode = model.ModeFull
		}
		s.Disks = append(s.Disks, d)
	}
	return s
}

// run is a stretch of blocks that the standby does not have.
type run struct {
	off  int
	data []byte
	zero bool
}

// runs is what a sender sends: blocks whose digest differs from the parent's.
func (g *rig) runs(ctx context.Context, st *Staging, target string, from int64) ([]run, error) {
	disk := g.disks[target]
	var out []run
	for off := int(from); off < len(disk); off += model.BlockSize {
		p := disk[off:min(off+model.BlockSize, len(disk))]
		var was [1]model.Digest
		if err := st.Digests(ctx, target, int64(off), was[:]); err != nil {
			return nil, err
		}
		if is := digest.Block(st.Seed(), p); is != was[0] {
			out = append(out, run{off, p, is == model.Digest{}})
		}
	}
	return out, nil
}

func sendRun(ctx context.Context, st *Staging, target string, r run) error {
	if r.zero {
		return st.WriteZeroes(ctx, target, int64(r.off), int64(len(r.data)))
	}
	digests := make([]model.Digest, digest.Count(int64(len(r.data))))
	digest.Blocks(st.Seed(), r.data, digests)
	return st.Write(ctx, target, int64(r.off), r.data, digests)
}

func (g *rig) receive(spec model.StagingSpec) error {
	ctx := context.Background()
	st, err := g.store.Stage(ctx, spec)
	if err != nil {
		return err
	}
	defer st.Close()
	for _, d := range spec.Disks {
		runs, err := g.runs(ctx, st, d.Target, st.Acked()[d.Target])
		if err != nil {
			return err
		}
		for _, r := range runs {
			if err := sendRun(ctx, st, d.Target, r); err != nil {
				return err
			}
		}
		if err := st.Ack(ctx, d.Target, d.Size); err != nil {
			return err
		}
		if err := st.Finish(ctx, d.Target); err != nil {
			return err
		}
	}
	return st.Close()
}

// manifestOf is a point taken twenty minutes after the one before; the first at 22:33.
func manifestOf(spec model.StagingSpec) model.Point {
	at := time.Unix(1700000000, 0).UTC().Add(time.Duration(spec.Seq) * 20 * time.Minute)
	p := model.Point{VM: spec.VM, PointRef: spec.PointRef, Parent: spec.Parent, Primary: "host-a", TakenAt: at, Consistency: model.CrashConsistent, DomainXML: "<domain/>"}
	for _, d := range spec.Disks {
		p.Disks = append(p.Disks, model.PointDisk{Target: d.Target, Size: d.Size, Mode: d.Mode, SourceFormat: model.FormatQCOW2})
	}
	return p
}

func (g *rig) proveAndCommit(spec model.StagingSpec) error {
	ctx := context.Background()
	if _, err := g.store.Point(ctx, spec.VM, spec.PointRef); err == nil {
		return nil
	}
	receipt, err := verify.Prove(ctx, g.store, spec.VM, spec.PointRef, nil)
	if err != nil {
		return err
	}
	_, err = g.store.Commit(ctx, receipt, manifestOf(spec))
	return err
}

// cycle takes a point of all disks as they are.
func (g *rig) cycle(seq, parent model.Seq, full ...string) {
	g.t.Helper()
	spec := g.spec(seq, parent, full...)
	g.remember(seq)
	require.NoError(g.t, g.receive(spec))
	require.NoError(g.t, g.proveAndCommit(spec))
}

func (g *rig) remember(seq model.Seq) {
	g.seen[seq] = map[string][]byte{}
	for target, p := range g.disks {
		g.seen[seq][target] = slices.Clone(p)
	}
}

func (g *rig) listed() []model.Seq {
	points, err := g.store.Points(context.Background(), vm1)
	require.NoError(g.t, err)
	return seqs(points)
}

func (g *rig) readImage(img model.Image) []byte {
	g.t.Helper()
	src, err := g.store.OpenImage(context.Background(), img)
	require.NoError(g.t, err)
	defer src.Close()
	p := make([]byte, src.Size())
	require.NoError(g.t, src.ReadAt(context.Background(), p, 0))
	return p
}

// checkAll checks the promises of the store: listed points read as they were taken, their digests are right, the table
// has the newest point's, and there is no file that nobody needs.
func (g *rig) checkAll() {
	g.t.Helper()
	g.checkPoints()
	g.checkTables()
	g.checkFiles()
}

func (g *rig) checkPoints() {
	g.t.Helper()
	ctx := context.Background()
	points, err := g.store.Points(ctx, vm1)
	require.NoError(g.t, err)
	for _, p := range points {
		images, err := g.store.Images(ctx, vm1, p.PointRef)
		require.NoError(g.t, err)
		require.Len(g.t, images, len(g.seen[p.Seq]))
		for i, img := range images {
			want := g.seen[p.Seq][img.Target]
			require.True(g.t, slices.Equal(want, g.readImage(img)), "point %d, disk %s", p.Seq, img.Target)
			var state digest.State
			for b := 0; b < len(want); b += model.BlockSize {
				state.Change(p.DigestSeed, int64(b/model.BlockSize), model.Digest{}, digest.Block(p.DigestSeed, want[b:min(b+model.BlockSize, len(want))]))
			}
			require.Equal(g.t, state.String(), p.Disks[i].StateDigest, "point %d, disk %s", p.Seq, img.Target)
		}
	}
}

func (g *rig) checkTables() {
	g.t.Helper()
	r := g.store.vms[vm1.UUID]
	newest, ok := r.newest()
	if !ok {
		return
	}
	for _, d := range newest.Disks {
		tab, err := openTable(r.home.digests(d.Target), false)
		require.NoError(g.t, err)
		require.NoError(g.t, tab.isOf(newest.DigestSeed, newest.Seq))
		want := g.seen[newest.Seq][d.Target]
		got := make([]model.Digest, digest.Count(d.Size)+3)
		var buf []byte
		require.NoError(g.t, tab.read(0, got, &buf))
		for i := range got {
			var is model.Digest
			if off := i * model.BlockSize; off < len(want) {
				is = digest.Block(newest.DigestSeed, want[off:min(off+model.BlockSize, len(want))])
			}
			require.Equal(g.t, is, got[i], "digest %d of disk %s", i, d.Target)
		}
		require.NoError(g.t, tab.close())
	}
}

func (g *rig) checkFiles() {
	g.t.Helper()
	r := g.store.vms[vm1.UUID]
	need := map[string]bool{}
	for target, layers := range r.chain.Disks {
		need[r.home.digests(target)] = true
		for _, l := range layers {
			need[r.home.layer(target, l.File)] = true
		}
	}
	require.NoError(g.t, filepath.Walk(string(r.home), func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(string(r.home), path)
		require.NotContains(g.t, rel, trashMark)
		require.False(g.t, !info.IsDir() && strings.HasPrefix(info.Name(), "."), "temporary file %s", rel)
		if strings.HasPrefix(rel, disksDir+"/") && !info.IsDir() {
			require.True(g.t, need[path], "%s is of no point", rel)
		}
		if strings.HasPrefix(rel, stagingDir+"/") && info.IsDir() {
			ref, ok := parseRef(info.Name())
			require.True(g.t, ok && g.store.resumable(r, ref), "%s cannot be resumed", rel)
		}
		return nil
	}))
}

// copyRig is a second rig in the same state, on a copy of the store's folder.
func (g *rig) copyRig() *rig {
	require.NoError(g.t, g.store.Close())
	c := &rig{t: g.t, root: blockiotest.Folder(g.t), boot: g.boot, disks: map[string][]byte{}, seen: maps.Clone(g.seen), rand: rand.New(rand.NewPCG(1, 2))}
	for target, p := range g.disks {
		c.disks[target] = slices.Clone(p)
	}
	out, err := exec.Command("cp", "-a", "--sparse=always", g.root+"/.", c.root).CombinedOutput()
	require.NoError(g.t, err, string(out))
	return c
}
