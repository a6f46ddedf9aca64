package mem_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/internal/blockio"
	"understudy/internal/blockio/blockiotest"
	"understudy/internal/blockio/mem"
)

func TestConformance(t *testing.T) {
	blockiotest.Conformance(t, blockiotest.Adapter{
		New: func(_ testing.TB, size int64) blockio.Target { return mem.New(size) },
		ReadOnly: func(_ testing.TB, size int64) blockio.Target {
			d := mem.New(size)
			d.SetReadOnly(true)
			return d
		},
		Sparse: true,
	})
}

func TestBitmap(t *testing.T) {
	d, ctx := mem.New(1<<20), context.Background()
	d.StartBitmap()
	require.NoError(t, d.WriteAt(ctx, []byte{1}, 70000))
	require.NoError(t, d.WriteZeroes(ctx, mem.PageSize*3, 1))
	var got []blockio.Extent
	require.NoError(t, d.Map(ctx, blockio.DirtyBitmap, 0, d.Size(), func(e blockio.Extent) error {
		got = append(got, e)
		return nil
	}))
	const p = mem.PageSize
	require.Equal(t, []blockio.Extent{
		{Offset: 0, Length: p, Kind: blockio.Clean}, {Offset: p, Length: p, Kind: blockio.Dirty},
		{Offset: 2 * p, Length: p, Kind: blockio.Clean}, {Offset: 3 * p, Length: p, Kind: blockio.Dirty},
		{Offset: 4 * p, Length: 12 * p, Kind: blockio.Clean},
	}, got)
}

func TestHook(t *testing.T) {
	d, ctx := mem.New(1<<20), context.Background()
	own := errors.New("sector is bad")
	d.SetHook(func(_ context.Context, op mem.Op, off, length int64) error {
		if op == mem.OpRead && off < 5000 && off+length > 4096 {
			return own
		}
		return nil
	})
	require.ErrorIs(t, d.ReadAt(ctx, make([]byte, 10), 4096), own)
	require.NoError(t, d.ReadAt(ctx, make([]byte, 10), 0))
	require.NoError(t, d.Flush(ctx))
	require.Equal(t, 1, d.Flushes())
	require.NoError(t, d.Close())
	require.ErrorIs(t, d.Flush(ctx), blockio.ErrClosed)
	d.Reopen()
	require.NoError(t, d.ReadAt(ctx, make([]byte, 10), 0))
}
