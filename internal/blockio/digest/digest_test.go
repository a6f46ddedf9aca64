package digest

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"understudy/internal/model"
)

func TestBlockOfZeroesHasTheZeroDigestAndNothingElse(t *testing.T) {
	require.Equal(t, model.Digest{}, Block(7, make([]byte, model.BlockSize)))
	require.Equal(t, model.Digest{}, Block(7, make([]byte, 512)))
	p := make([]byte, model.BlockSize)
	p[4095] = 1
	require.NotEqual(t, model.Digest{}, Block(7, p))
}

func TestShortBlockCountsAsPadded(t *testing.T) {
	whole := make([]byte, model.BlockSize)
	copy(whole, "a short block")
	require.Equal(t, Block(3, whole), Block(3, whole[:512]))
}

func TestDigestsArePinned(t *testing.T) { // a change of these breaks every store in the field
	p := make([]byte, model.BlockSize)
	p[0] = 1
	require.Equal(t, "b6bb93d515b9ac4cc9e029ad55512382", State(Block(1, p)).String())
	require.NotEqual(t, Block(1, p), Block(2, p))
	var s State
	s.Change(1, 5, model.Digest{}, Block(1, p))
	require.Equal(t, "50eac3fe7fd100669a6f27c94ccce3a8", s.String())
}

func TestStateDependsOnContentNotOnHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const seed = 99
		disk := map[int64]model.Digest{}
		var kept State
		for range rapid.IntRange(0, 40).Draw(t, "changes") {
			i := rapid.Int64Range(0, 9).Draw(t, "block")
			d := model.Digest{0: rapid.Byte().Draw(t, "digest")}
			kept.Change(seed, i, disk[i], d)
			disk[i] = d
		}
		var fresh State
		for i, d := range disk {
			fresh.Change(seed, i, model.Digest{}, d)
		}
		require.Equal(t, fresh, kept)
		back, err := ParseState(kept.String())
		require.NoError(t, err)
		require.Equal(t, kept, back)
	})
}

func BenchmarkBlock(b *testing.B) {
	p := make([]byte, 1<<20)
	for i := range p {
		p[i] = byte(i * 7)
	}
	dst := make([]model.Digest, Count(int64(len(p))))
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		Blocks(5, p, dst)
	}
}
