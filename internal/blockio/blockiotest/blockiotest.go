// Package blockiotest holds the conformance suite of blockio: what its contract
// promises, run against any adapter, and helpers for tests with real block servers.
package blockiotest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"understudy/internal/blockio"
)

// Adapter says how the suite gets disks to try.
type Adapter struct {
	// New gives an empty disk (all zeroes) of at least size bytes, which the suite closes.
	New func(t testing.TB, size int64) blockio.Target
	// ReadOnly gives a disk of at least size bytes that must refuse writes; nil if the
	// adapter has no such thing.
	ReadOnly func(t testing.TB, size int64) blockio.Target
	// Sparse: a fresh disk maps as hole or zero, and so does what was zeroed.
	Sparse bool
}

const diskSize = 4<<20 + 512 // not a multiple of a cluster

// Conformance runs the suite.
func Conformance(t *testing.T, a Adapter) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Adapter)
	}{
		{"Ranges", testRanges}, {"Model", testModel}, {"Map", testMap}, {"Concurrent", testConcurrent},
		{"Cancelled", testCancelled}, {"ReadOnly", testReadOnly}, {"Close", testClose},
	} {
		t.Run(test.name, func(t *testing.T) {
			NoLeak(t)
			test.run(t, a)
		})
	}
}

func open(t testing.TB, a Adapter) blockio.Target {
	t.Helper()
	d := a.New(t, diskSize)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	require.GreaterOrEqual(t, d.Size(), int64(diskSize))
	return d
}

// testRanges: what is outside the disk is refused, overflow included; length 0 is fine.
func testRanges(t *testing.T, a Adapter) {
	d, ctx := open(t, a), context.Background()
	size := d.Size()
	for _, r := range []struct {
		off, length int64
		ok          bool
	}{
		{0, 0, true}, {size, 0, true}, {size - 1, 1, true}, {0, 1, true},
		{size, 1, false}, {size + 1, 0, false}, {-1, 1, false}, {-1, 0, false}, {size - 1, 2, false},
		{math.MaxInt64, 1, false}, {math.MinInt64, 1, false}, {math.MaxInt64, 4096, false},
	} {
		p := make([]byte, r.length)
		for name, err := range map[string]error{
			"read":   d.ReadAt(ctx, p, r.off),
			"write":  d.WriteAt(ctx, p, r.off),
			"zeroes": d.WriteZeroes(ctx, r.off, r.length),
			"map":    d.Map(ctx, blockio.Allocation, r.off, r.length, func(blockio.Extent) error { return nil }),
		} {
			if r.ok {
				require.NoErrorf(t, err, "%s %+v", name, r)
			} else {
				require.ErrorIsf(t, err, blockio.ErrOutOfRange, "%s %+v", name, r)
			}
		}
	}
	for _, length := range []int64{-1, math.MinInt64, math.MaxInt64} {
		require.ErrorIs(t, d.WriteZeroes(ctx, 0, length), blockio.ErrOutOfRange)
		require.ErrorIs(t, d.Map(ctx, blockio.Allocation, 1, length, nil), blockio.ErrOutOfRange)
	}
}

// testModel: random operations agree with a slice of bytes, and after each the map is
// well formed and calls nothing zero that is not.
func testModel(t *testing.T, a Adapter) {
	d, ctx := open(t, a), context.Background()
	model := make([]byte, d.Size())
	rapid.Check(t, func(rt *rapid.T) {
		for range rapid.IntRange(1, 8).Draw(rt, "ops") {
			off := rapid.Int64Range(0, d.Size()-1).Draw(rt, "off")
			if rapid.Bool().Draw(rt, "aligned") {
				off &^= 4095
			}
			length := min(rapid.SampledFrom([]int64{1, 511, 512, 4096, 65536, 70000, 1 << 20}).Draw(rt, "length"), d.Size()-off)
			switch rapid.SampledFrom([]string{"write", "zeroes", "read", "flush"}).Draw(rt, "op") {
			case "write":
				p := bytes.Repeat([]byte{rapid.Byte().Draw(rt, "fill")}, int(length))
				require.NoError(rt, d.WriteAt(ctx, p, off))
				copy(model[off:], p)
			case "zeroes":
				require.NoError(rt, d.WriteZeroes(ctx, off, length))
				clear(model[off : off+length])
			case "flush":
				require.NoError(rt, d.Flush(ctx))
			}
			p := bytes.Repeat([]byte{0xa5}, int(length))
			require.NoError(rt, d.ReadAt(ctx, p, off))
			require.True(rt, bytes.Equal(p, model[off:off+length]), "content of [%d, %d)", off, off+length)
			checkMap(rt, d, model, off, length)
		}
	})
	p := make([]byte, d.Size())
	require.NoError(t, d.ReadAt(ctx, p, 0))
	require.True(t, bytes.Equal(p, model), "whole content")
	checkMap(t, d, model, 0, d.Size())
}

// checkMap checks the shape of a map, and that what it calls zero is zero.
func checkMap(t require.TestingT, d blockio.Target, model []byte, off, length int64) {
	next, last := off, blockio.Kind(0)
	err := d.Map(context.Background(), blockio.Allocation, off, length, func(e blockio.Extent) error {
		require.Equal(t, next, e.Offset, "gap or overlap")
		require.Positive(t, e.Length)
		require.NotEqual(t, last, e.Kind, "not merged")
		require.Contains(t, []blockio.Kind{blockio.Data, blockio.Zero, blockio.Hole}, e.Kind)
		if e.Kind.ReadsZero() {
			require.Equal(t, -1, bytes.IndexFunc(model[e.Offset:e.End()], func(r rune) bool { return r != 0 }), "%v is not zero", e)
		}
		next, last = e.End(), e.Kind
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, off+length, next, "range not covered")
}

// testMap: sparseness is seen, visit's error comes back as it is, visit may use the
// handle, and there is no dirty bitmap unless the handle was opened with one.
func testMap(t *testing.T, a Adapter) {
	d, ctx := open(t, a), context.Background()
	zero := func() (n int64) {
		require.NoError(t, d.Map(ctx, blockio.Allocation, 0, d.Size(), func(e blockio.Extent) error {
			if e.Kind.ReadsZero() {
				n += e.Length
			}
			return nil
		}))
		return n
	}
	if a.Sparse {
		require.Equal(t, d.Size(), zero(), "fresh disk")
	}
	data := bytes.Repeat([]byte{1}, 256<<10)
	require.NoError(t, d.WriteAt(ctx, data, 1<<20))
	require.LessOrEqual(t, zero(), d.Size()-int64(len(data)))
	if a.Sparse {
		require.GreaterOrEqual(t, zero(), d.Size()-int64(len(data)))
	}
	own, visits := errors.New("enough"), 0
	err := d.Map(ctx, blockio.Allocation, 0, d.Size(), func(e blockio.Extent) error {
		visits++
		p := make([]byte, min(e.Length, 4096))
		require.NoError(t, d.ReadAt(ctx, p, e.Offset))
		require.NoError(t, d.WriteAt(ctx, p, e.Offset))
		return own
	})
	require.Same(t, own, err) //nolint:testifylint // the very same error is promised
	require.Equal(t, 1, visits)
	require.NoError(t, d.WriteZeroes(ctx, 1<<20, int64(len(data))))
	if a.Sparse {
		require.GreaterOrEqual(t, zero(), d.Size()-int64(len(data))-64<<10)
	}
	for _, m := range []blockio.Map{blockio.DirtyBitmap, 0, 77} {
		err = d.Map(ctx, m, 0, d.Size(), func(blockio.Extent) error { t.Error("visited"); return nil })
		require.ErrorIs(t, err, blockio.ErrNoMap)
	}
}

// testConcurrent: many calls in flight do not mix up their data.
func testConcurrent(t *testing.T, a Adapter) {
	d, ctx := open(t, a), context.Background()
	const workers, span = 16, 256 << 10
	var wg sync.WaitGroup
	errs := make(chan error, workers)
	for w := range workers {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), 1))
			mine, got := make([]byte, span), make([]byte, span)
			base := int64(w * span)
			for range 20 {
				from := rnd.IntN(span - 1)
				to := from + 1 + rnd.IntN(span-from)
				for i := from; i < to; i++ {
					mine[i] = byte(rnd.Uint32())
				}
				if err := d.WriteAt(ctx, mine[from:to], base+int64(from)); err != nil {
					errs <- err
					return
				}
				if err := d.ReadAt(ctx, got, base); err != nil || !bytes.Equal(mine, got) {
					errs <- fmt.Errorf("worker %d: content differs, or %w", w, err)
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	require.NoError(t, d.Flush(ctx))
}

// testCancelled: an ended context fails every call, and the handle lives on.
func testCancelled(t *testing.T, a Adapter) {
	d := open(t, a)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	p := make([]byte, 4096)
	for name, err := range map[string]error{
		"read": d.ReadAt(ctx, p, 0), "write": d.WriteAt(ctx, p, 0), "zeroes": d.WriteZeroes(ctx, 0, 1),
		"flush": d.Flush(ctx),
		"map":   d.Map(ctx, blockio.Allocation, 0, d.Size(), func(blockio.Extent) error { return nil }),
	} {
		require.ErrorIs(t, err, context.Canceled, name)
	}
	require.NoError(t, d.ReadAt(context.Background(), p, 0))
}

func testReadOnly(t *testing.T, a Adapter) {
	if a.ReadOnly == nil {
		t.Skip("the adapter has no read-only disks")
	}
	d, ctx := a.ReadOnly(t, diskSize), context.Background()
	defer func() { require.NoError(t, d.Close()) }()
	p := make([]byte, 4096)
	require.ErrorIs(t, d.WriteAt(ctx, p, 0), blockio.ErrReadOnly)
	require.ErrorIs(t, d.WriteZeroes(ctx, 0, 4096), blockio.ErrReadOnly)
	require.NoError(t, d.ReadAt(ctx, p, 0))
	require.NoError(t, d.Flush(ctx))
}

// testClose: closing twice is fine, during use too, and later calls say ErrClosed.
func testClose(t *testing.T, a Adapter) {
	d, ctx := a.New(t, diskSize), context.Background()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			p := make([]byte, 64<<10)
			for {
				if err := d.ReadAt(ctx, p, 0); err != nil {
					if !errors.Is(err, blockio.ErrClosed) {
						t.Errorf("read while closing: %v", err)
					}
					return
				}
			}
		})
	}
	require.NoError(t, d.Close())
	require.NoError(t, d.Close())
	wg.Wait()
	p := make([]byte, 1)
	for name, err := range map[string]error{
		"read": d.ReadAt(ctx, p, 0), "write": d.WriteAt(ctx, p, 0), "zeroes": d.WriteZeroes(ctx, 0, 1),
		"flush": d.Flush(ctx),
		"map":   d.Map(ctx, blockio.Allocation, 0, 1, func(blockio.Extent) error { return nil }),
	} {
		require.ErrorIs(t, err, blockio.ErrClosed, name)
	}
}
