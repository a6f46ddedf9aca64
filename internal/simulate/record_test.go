package simulate

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// A guest that rewrites a small working set, seen by its counters once a second.
func TestWhatIsMadeOfCountersHasTheirBytesAndTheirDirtyClusters(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var looks []Look
		dirty, clusters, written := int64(0), int64(0), int64(0)
		n := rapid.IntRange(1, 40).Draw(t, "seconds")
		for i := range n {
			blocks := rapid.Int64Range(0, 500).Draw(t, "blocks")
			grow := min(rapid.Int64Range(0, 60).Draw(t, "grow"), blocks)
			dirty, clusters, written = dirty+grow*Cluster, clusters+grow, written+blocks*Block
			looks = append(looks, Look{Time: float64(i + 1), Bytes: blocks * Block, Reqs: rapid.Int64Range(0, 900).Draw(t, "reqs"), Dirty: dirty, Window: "one"})
		}
		writes := FromLooks(looks, 7)
		require.Equal(t, writes, FromLooks(looks, 7), "the same again")
		trace, err := NewTrace("recorded", float64(n), 1, writes)
		require.NoError(t, err)
		require.InDelta(t, written, trace.Written(), 0.5)
		w := window{}
		trace.advance(&w, trace.ticks())
		require.InDelta(t, clusters, w.q, 1, "one more when the first writes were to clusters that were dirty already")
		var file bytes.Buffer
		require.NoError(t, WriteCSV(&file, float64(n), 1, writes))
		_, err = ReadCSV("file", &file)
		require.NoError(t, err)
	})
}

func TestWithoutACountOfDirtyClustersNothingIsARewrite(t *testing.T) {
	looks := []Look{{Time: 1, Bytes: 1 << 20, Reqs: 9, Dirty: -1}, {Time: 2, Bytes: 1 << 20, Reqs: 9, Dirty: -1}}
	trace, err := NewTrace("recorded", 2, 1, FromLooks(looks, 1))
	require.NoError(t, err)
	blocks, clusters := trace.Unique(2)
	require.EqualValues(t, 2<<20, blocks)
	require.EqualValues(t, 2<<20, clusters)
}
