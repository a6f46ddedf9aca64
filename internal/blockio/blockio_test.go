package blockio_test

import (
	"errors"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"understudy/internal/blockio"
)

func TestCheckRange(t *testing.T) {
	for _, c := range []struct {
		size, off, length int64
		ok                bool
	}{
		{0, 0, 0, true}, {10, 10, 0, true}, {10, 0, 10, true}, {math.MaxInt64, math.MaxInt64, 0, true},
		{math.MaxInt64, 0, math.MaxInt64, true}, {10, 0, 11, false}, {10, 11, 0, false}, {10, -1, 1, false},
		{10, 1, -1, false}, {10, math.MaxInt64, math.MaxInt64, false}, {10, math.MinInt64, 1, false}, {0, 0, 1, false},
	} {
		err := blockio.CheckRange(c.size, c.off, c.length)
		if c.ok {
			require.NoError(t, err, "%+v", c)
			continue
		}
		require.ErrorIs(t, err, blockio.ErrOutOfRange, "%+v", c)
		var re *blockio.RangeError
		require.ErrorAs(t, err, &re)
		require.Equal(t, blockio.RangeError{Size: c.size, Offset: c.off, Length: c.length}, *re)
	}
}

// TestMerger: whatever the pieces, the same bytes come out with the same kinds, and no
// two neighbours are alike.
func TestMerger(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var in, out []blockio.Kind // a kind for each byte
		last := blockio.Extent{}
		m := blockio.Merger{Visit: func(e blockio.Extent) error {
			require.Equal(rt, last.End(), e.Offset)
			require.NotEqual(rt, last.Kind, e.Kind)
			last = e
			for range e.Length {
				out = append(out, e.Kind)
			}
			return nil
		}}
		for range rapid.IntRange(0, 20).Draw(rt, "pieces") {
			n := rapid.Int64Range(0, 5).Draw(rt, "length")
			k := rapid.SampledFrom([]blockio.Kind{blockio.Data, blockio.Zero, blockio.Hole}).Draw(rt, "kind")
			require.NoError(rt, m.Add(blockio.Extent{Offset: int64(len(in)), Length: n, Kind: k}))
			for range n {
				in = append(in, k)
			}
		}
		require.NoError(rt, m.Finish())
		require.NoError(rt, m.Finish(), "nothing is held back any more")
		require.Equal(rt, in, out)
	})
	own := errors.New("own")
	m := blockio.Merger{Visit: func(blockio.Extent) error { return own }}
	require.NoError(t, m.Add(blockio.Extent{Length: 1, Kind: blockio.Data}))
	require.Equal(t, own, m.Add(blockio.Extent{Offset: 1, Length: 1, Kind: blockio.Hole}))
	require.Equal(t, own, m.Finish())
}

func TestNames(t *testing.T) {
	require.Equal(t, "data zero hole dirty clean invalid", blockio.Data.String()+" "+blockio.Zero.String()+" "+blockio.Hole.String()+" "+
		blockio.Dirty.String()+" "+blockio.Clean.String()+" "+blockio.Kind(0).String())
	require.Equal(t, "allocation dirty-bitmap invalid", blockio.Allocation.String()+" "+blockio.DirtyBitmap.String()+" "+blockio.Map(0).String())
	require.True(t, blockio.Zero.ReadsZero() && blockio.Hole.ReadsZero() && !blockio.Data.ReadsZero() && !blockio.Dirty.ReadsZero())
}
