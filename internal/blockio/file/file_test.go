package file

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"understudy/internal/blockio"
	"understudy/internal/blockio/blockiotest"
)

func TestConformance(t *testing.T) {
	path := func(t testing.TB) string { return filepath.Join(t.TempDir(), "disk.img") }
	blockiotest.Conformance(t, blockiotest.Adapter{
		New: func(t testing.TB, size int64) blockio.Target {
			f, err := Create(path(t), size)
			require.NoError(t, err)
			return f
		},
		ReadOnly: func(t testing.TB, size int64) blockio.Target {
			p := path(t)
			require.NoError(t, os.WriteFile(p, make([]byte, size), 0o600))
			f, err := Open(p, Options{ReadOnly: true})
			require.NoError(t, err)
			return f
		},
		Sparse: true,
	})
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "target")
	require.NoError(t, os.WriteFile(target, nil, 0o600))
	link := filepath.Join(dir, "link")
	require.NoError(t, os.Symlink(target, link))
	pipe := filepath.Join(dir, "pipe")
	require.NoError(t, unix.Mkfifo(pipe, 0o600))
	for _, c := range []struct {
		path string
		want error
	}{
		{link, unix.ELOOP}, {pipe, ErrNotRegular}, {dir, unix.EISDIR}, {"/dev/null", ErrNotRegular},
		{filepath.Join(dir, "absent"), os.ErrNotExist},
	} {
		start := time.Now()
		_, err := Open(c.path, Options{})
		require.ErrorIs(t, err, c.want, c.path)
		require.Less(t, time.Since(start), 5*time.Second)
	}
	_, err := Open(dir, Options{ReadOnly: true})
	require.ErrorIs(t, err, ErrNotRegular)
	_, err = Create(target, 1)
	require.ErrorIs(t, err, os.ErrExist)
	_, err = Create(filepath.Join(dir, "x"), -1)
	require.Error(t, err)
}

// TestPartsAreOneWrite: however the bytes are cut, more pieces than one call takes and more bytes than one call is given.
func TestPartsAreOneWrite(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		data := make([]byte, rapid.SampledFrom([]int{0, 1, 5000, piece, piece + 1, 2*piece + 12345}).Draw(rt, "bytes"))
		seed := rapid.Uint32().Draw(rt, "seed")
		for i := range data {
			seed = seed*1664525 + 1013904223
			data[i] = byte(seed >> 24)
		}
		longest := max(rapid.SampledFrom([]int{16 << 10, 1 << 20, 3 * piece}).Draw(rt, "longest"), len(data)/3000)
		var parts [][]byte
		for rest := data; len(rest) > 0; {
			n := min(rapid.IntRange(0, longest).Draw(rt, "part"), len(rest))
			parts, rest = append(parts, rest[:n]), rest[n:]
		}
		if len(data) == 5000 {
			parts = nil
			for i := range data {
				parts = append(parts, data[i:i+1])
			}
		}
		before := append([][]byte(nil), parts...)
		const off = 777
		f, err := Create(filepath.Join(t.TempDir(), fmt.Sprint(time.Now().UnixNano())), int64(len(data))+off)
		require.NoError(t, err)
		defer f.Close()
		require.NoError(t, f.WriteParts(context.Background(), parts, off))
		require.Equal(t, before, parts, "the caller's parts are left as they were")
		f.Begin(0, f.Size())
		got := make([]byte, len(data))
		require.NoError(t, f.ReadAt(context.Background(), got, off))
		require.True(t, bytes.Equal(data, got))
		require.ErrorIs(t, f.WriteParts(context.Background(), [][]byte{data, {1}}, off), blockio.ErrOutOfRange)
	})
}

func TestShortened(t *testing.T) {
	f, err := Create(filepath.Join(t.TempDir(), "d"), 1<<20)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, f.f.Truncate(4096))
	require.ErrorIs(t, f.ReadAt(context.Background(), make([]byte, 8192), 0), io.ErrUnexpectedEOF)
	// The map still covers the whole range; the reader then meets the error.
	var end int64
	require.NoError(t, f.Map(context.Background(), blockio.Allocation, 0, f.Size(), func(e blockio.Extent) error {
		end = e.End()
		return nil
	}))
	require.Equal(t, f.Size(), end)
}

// TestZeroesReleaseSpace: a hole is punched, and the fallback gives the same bytes.
func TestZeroes(t *testing.T) {
	ctx := context.Background()
	f, err := Create(filepath.Join(t.TempDir(), "d"), 1<<20)
	require.NoError(t, err)
	defer f.Close()
	p := make([]byte, 1<<20)
	for i := range p {
		p[i] = byte(i) | 1
	}
	require.NoError(t, f.WriteAt(ctx, p, 0))
	require.NoError(t, f.Flush(ctx))
	blocks := func() int64 {
		var st unix.Stat_t
		require.NoError(t, unix.Fstat(f.fd, &st))
		return st.Blocks
	}
	full := blocks()
	require.NoError(t, f.WriteZeroes(ctx, 0, 512<<10))
	require.Less(t, blocks(), full)
	require.NoError(t, f.writeZeroData(ctx, 512<<10, 500<<10))
	require.NoError(t, f.ReadAt(ctx, p, 0))
	require.Equal(t, make([]byte, 1012<<10), p[:1012<<10])
	require.Equal(t, byte(1), p[1012<<10])
}
