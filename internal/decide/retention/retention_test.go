package retention

import (
	"fmt"
	"maps"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"understudy/internal/model"
)

func TestKeepLast(t *testing.T) {
	points := []model.Seq{5, 3, 9, 7}
	require.Equal(t, []model.Seq{3, 5}, KeepLast(points, 2))
	require.Equal(t, []model.Seq{3, 5}, KeepLast(points, 0), "never fewer than two stay")
	require.Empty(t, KeepLast(points, 4))
	require.Empty(t, KeepLast(nil, 4))
}

func TestAPlanReadsAsASentence(t *testing.T) {
	st := State{Points: []model.Seq{1, 2, 3}, Disks: []Disk{{Target: "vda", Layers: []Layer{{1, "s1", true}, {2, "s2", false}, {3, "s3", false}}}}}
	ops, err := Plan(st, []model.Seq{1})
	require.NoError(t, err)
	require.Equal(t, []Op{
		{Kind: Delist, Seq: 1},
		{Kind: Merge, Target: "vda", File: "s2", Into: "s1"},
		{Kind: Rebase, Target: "vda", File: "s3", Into: "s1"},
		{Kind: Adopt, Target: "vda", Seq: 1, Keep: 2, Into: "s1"},
		{Kind: Unlink, Target: "vda", File: "s2"},
	}, ops)
	_, err = Plan(st, []model.Seq{3})
	require.ErrorContains(t, err, "newest")
	_, err = Plan(st, []model.Seq{8})
	require.ErrorContains(t, err, "not listed")
	require.Len(t, st.Points, 3, "planning changes nothing")
}

// files are images on a disk: what each holds itself, and what it lies on.
type files map[string]*image

type image struct {
	on     string
	blocks map[int]int
}

func (f files) read(t require.TestingT, name string) map[int]int {
	out := map[int]int{}
	for name != "" {
		img := f[name]
		require.NotNil(t, img, "a layer lies on %s, which is gone", name)
		for block, value := range img.blocks {
			if _, above := out[block]; !above {
				out[block] = value
			}
		}
		name = img.on
	}
	return out
}

// do does an operation as the store does; half leaves a merge in the middle.
func (f files) do(op Op, half bool) {
	switch op.Kind {
	case Merge:
		from, into := f[op.File], f[op.Into]
		if from == nil || into == nil {
			return
		}
		for block, value := range from.blocks {
			if !half || block%2 == 0 {
				into.blocks[block] = value
			}
		}
	case Rebase:
		if img := f[op.File]; img != nil && !half {
			img.on = op.Into
		}
	case Unlink:
		if !half {
			delete(f, op.File)
		}
	case Delist, Adopt, Forget:
	}
}

func drawStore(t *rapid.T) (State, files) {
	var st State
	f := files{}
	n := rapid.IntRange(2, 8).Draw(t, "points")
	for seq := 1; seq <= n; seq++ {
		st.Points = append(st.Points, model.Seq(seq))
	}
	for d := range rapid.IntRange(1, 3).Draw(t, "disks") {
		disk := Disk{Target: fmt.Sprintf("vd%c", 'a'+d)}
		first := rapid.IntRange(1, n).Draw(t, "came with")
		last := rapid.IntRange(first, n).Draw(t, "left with")
		for seq := first; seq <= last; seq++ {
			l := Layer{Seq: model.Seq(seq), File: fmt.Sprintf("%s-s%d", disk.Target, seq), Base: seq == first || rapid.IntRange(0, 4).Draw(t, "base") == 0}
			img := &image{blocks: rapid.MapOfN(rapid.IntRange(0, 9), rapid.IntRange(0, 99), 0, 5).Draw(t, "blocks")}
			if !l.Base {
				img.on = disk.Layers[len(disk.Layers)-1].File
			}
			f[l.File] = img
			disk.Layers = append(disk.Layers, l)
		}
		st.Disks = append(st.Disks, disk)
	}
	return st, f
}

func listed(t require.TestingT, st State, f files) map[string]map[int]int {
	out := map[string]map[int]int{}
	for _, d := range st.Disks {
		for _, l := range d.Layers {
			for _, p := range st.Points {
				if p == l.Seq {
					out[fmt.Sprintf("%s@%d", d.Target, p)] = f.read(t, l.File)
				}
			}
		}
	}
	return out
}

// At every step of a plan, also in the middle of one and after it was done twice, every point that is still listed reads
// as it did before, and no layer lies on a file that is gone.
func TestLawWhatStaysReadsAsBefore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		st, f := drawStore(t)
		before := listed(t, st, f)
		keep := rapid.IntRange(MinKeep, 8).Draw(t, "keep")
		drop := KeepLast(st.Points, keep)
		ops, err := Plan(st, drop)
		require.NoError(t, err)
		check := func(op Op) {
			for name, content := range listed(t, st, f) {
				require.True(t, maps.Equal(before[name], content), "%s changed in %+v", name, op)
			}
		}
		for _, op := range ops {
			if op.Kind != Delist {
				f.do(op, true)
				check(op)
			}
			for range 2 {
				f.do(op, false)
				require.NoError(t, st.Apply(op))
				check(op)
			}
		}
		require.Len(t, st.Points, min(keep, len(st.Points)+len(drop)))
		inUse := map[string]bool{}
		for _, d := range st.Disks {
			for _, l := range d.Layers {
				inUse[l.File] = true
			}
		}
		for name := range f {
			require.True(t, inUse[name], "%s is left over", name)
		}
	})
}
