package verify_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"understudy/internal/blockio"
	"understudy/internal/blockio/digest"
	"understudy/internal/blockio/mem"
	"understudy/internal/model"
	"understudy/internal/verify"
)

const seed = 42

var (
	vm    = model.VMRef{Name: "db1", UUID: "6f0c5b0e-8f53-4a3c-9c0a-0d6f5f2f9a11"}
	point = model.PointRef{Generation: 1, Seq: 2}
)

// store is a staging area in memory.
type store struct {
	images []model.Image
	disks  map[string]*mem.Disk
	runs   map[string][]model.WrittenRun
	check  error
}

func (s *store) Staged(context.Context, model.VMRef, model.PointRef) (uint64, []model.Image, error) {
	return seed, s.images, nil
}

func (s *store) StagedRuns(_ context.Context, _ model.VMRef, _ model.PointRef, target string, visit func(model.WrittenRun) error) (model.DiskReceipt, error) {
	r := model.DiskReceipt{Target: target, Log: "sum of " + target}
	for _, w := range s.runs[target] {
		reused := append([]model.Digest(nil), w.Digests...)
		if err := visit(model.WrittenRun{Run: w.Run, Digests: reused}); err != nil {
			return r, err
		}
		for i := range reused { // valid during the call only
			reused[i] = model.Digest{0xff}
		}
		r.Blocks += digest.Count(w.Length)
		r.Bytes += w.Length
	}
	return r, nil
}

func (s *store) OpenImage(_ context.Context, img model.Image) (blockio.Source, error) {
	return s.disks[img.Target], nil
}

func (s *store) CheckImage(context.Context, model.Image) error { return s.check }

// staged makes a disk with random runs; what lies below the parent's end may hold anything where nothing was written.
func staged(t *rapid.T, target string) (img model.Image, disk *mem.Disk, runs []model.WrittenRun, covered func(off int64) bool) {
	blocks := rapid.Int64Range(1, 2000).Draw(t, "blocks")
	size := blocks*model.BlockSize - rapid.SampledFrom([]int64{0, 512, 3584}).Draw(t, "short")
	img = model.Image{Target: target, Size: size, ParentSize: rapid.SampledFrom([]int64{0, size, size / 2 / 512 * 512}).Draw(t, "parent")}
	disk = mem.New(size)
	ctx := context.Background()
	old := make([]byte, img.ParentSize)
	for i := range old {
		old[i] = 7
	}
	if err := disk.WriteAt(ctx, old, 0); err != nil {
		t.Fatal(err)
	}
	for at := int64(0); at < blocks; {
		at += rapid.Int64Range(0, 300).Draw(t, "gap")
		n := min(rapid.Int64Range(1, 600).Draw(t, "run"), blocks-at)
		if n <= 0 {
			break
		}
		run := model.Run{Offset: at * model.BlockSize, Length: min(n*model.BlockSize, size-at*model.BlockSize)}
		w := model.WrittenRun{Run: run}
		p := make([]byte, run.Length)
		if rapid.Bool().Draw(t, "data") {
			for i := range p {
				p[i] = byte(i/7+int(at)) | 1
			}
			w.Digests = make([]model.Digest, digest.Count(run.Length))
			digest.Blocks(seed, p, w.Digests)
		}
		if err := disk.WriteAt(ctx, p, run.Offset); err != nil {
			t.Fatal(err)
		}
		runs = append(runs, w)
		at += n
	}
	return img, disk, runs, func(off int64) bool {
		for _, w := range runs {
			if off >= w.Offset && off < w.Offset+w.Length {
				return true
			}
		}
		return off >= digest.Count(img.ParentSize)*model.BlockSize
	}
}

func TestAnyByteThatDiffersIsFoundAndNothingElseIs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		s := &store{disks: map[string]*mem.Disk{}, runs: map[string][]model.WrittenRun{}}
		covered := map[string]func(int64) bool{}
		for _, target := range []string{"vda", "vdb"} {
			img, disk, runs, c := staged(t, target)
			s.images = append(s.images, img)
			s.disks[target], s.runs[target], covered[target] = disk, runs, c
		}
		open := func() { // Prove closes what it opened
			for target, d := range s.disks {
				fresh := mem.New(d.Size())
				p := make([]byte, d.Size())
				require.NoError(t, d.ReadAt(ctx, p, 0))
				require.NoError(t, fresh.WriteAt(ctx, p, 0))
				s.disks[target] = fresh
			}
		}
		spare := map[string]*mem.Disk{}
		open()
		for target, d := range s.disks {
			spare[target] = mem.New(d.Size())
			p := make([]byte, d.Size())
			require.NoError(t, d.ReadAt(ctx, p, 0))
			require.NoError(t, spare[target].WriteAt(ctx, p, 0))
		}
		receipt, err := verify.Prove(ctx, s, vm, point, func(done, total int64) {})
		require.NoError(t, err)
		require.Equal(t, point, receipt.PointRef)
		require.Equal(t, "sum of vdb", receipt.Disks[1].Log)
		require.False(t, receipt.ProvedAt.IsZero())

		s.disks = spare
		victim := rapid.SampledFrom([]string{"vda", "vdb"}).Draw(t, "victim")
		off := rapid.Int64Range(0, s.disks[victim].Size()-1).Draw(t, "at")
		var p [1]byte
		require.NoError(t, s.disks[victim].ReadAt(ctx, p[:], off))
		p[0] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		require.NoError(t, s.disks[victim].WriteAt(ctx, p[:], off))
		_, err = verify.Prove(ctx, s, vm, point, nil)
		if !covered[victim](off) {
			require.NoError(t, err)
			return
		}
		require.Equal(t, model.VerifyMismatch, model.KindOf(err))
		require.ErrorContains(t, err, victim)
	})
}

func TestADamagedImageOrAFailedReadGivesNoReceipt(t *testing.T) {
	ctx := context.Background()
	fresh := func() *store {
		d := mem.New(1 << 20)
		return &store{
			images: []model.Image{{Target: "vda", Size: d.Size()}}, disks: map[string]*mem.Disk{"vda": d},
			runs: map[string][]model.WrittenRun{"vda": {{Run: model.Run{Offset: 4096, Length: 8192}}}},
		}
	}
	s := fresh()
	s.check = model.Fail(model.VerifyMismatch, nil, "the image of disk vda is damaged")
	_, err := verify.Prove(ctx, s, vm, point, nil)
	require.Equal(t, model.VerifyMismatch, model.KindOf(err))

	s = fresh()
	torn := errors.New("bad sector")
	s.disks["vda"].SetHook(func(_ context.Context, op mem.Op, _, _ int64) error {
		if op == mem.OpRead {
			return torn
		}
		return nil
	})
	_, err = verify.Prove(ctx, s, vm, point, nil)
	require.ErrorIs(t, err, torn)
	require.True(t, strings.Contains(err.Error(), "db1"))

	s = fresh()
	gone, cancel := context.WithCancel(ctx)
	cancel()
	_, err = verify.Prove(gone, s, vm, point, nil)
	require.Error(t, err)
}
