package replicate_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"understudy/internal/blockio"
	"understudy/internal/blockio/blockiotest"
	"understudy/internal/blockio/mem"
	"understudy/internal/model"
	"understudy/internal/replicate"
)

var ctx = context.Background()

func random(n int64, s uint64) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(s), byte(s >> 8)})
	_, _ = r.Read(p)
	return p
}

func filled(t require.TestingT, size int64) *mem.Disk {
	d := mem.New(size)
	require.NoError(t, d.WriteAt(ctx, random(size, 1), 0))
	return d
}

// seeded has one disk of random data that is committed on the standby.
func seeded(t testing.TB, size int64) (primary, *standby) {
	p := primary{"vda": filled(t, size)}
	s := &standby{parent: map[string][]byte{"vda": p.content(t, "vda")}}
	p["vda"].StartBitmap()
	return p, s
}

func TestOnlyChangedBlocksOfDirtyClustersCrossTheWire(t *testing.T) {
	blockiotest.NoLeak(t)
	const size, writes = 64 << 20, 300
	p, s := seeded(t, size)
	for i := range int64(writes) {
		require.NoError(t, p["vda"].WriteAt(ctx, random(4096, 1000+uint64(i)), i*3*mem.PageSize+i%16*4096))
	}
	const dirty = writes * mem.PageSize
	disk := snap("vda", size, model.ModeDelta)
	disk.DirtyBytes = dirty
	res, err := replicate.Run(ctx, p.open, s.serve(t), request(2, disk), nil)
	require.NoError(t, err)
	requireSame(t, p, s)
	require.False(t, res.Resumed)
	require.Equal(t, int64(dirty), res.Disks[0].ReadBytes)
	require.Equal(t, int64(writes*4096), res.Disks[0].ChangedBytes)
	require.LessOrEqual(t, res.SentBytes, int64(dirty/10), "bytes on the wire, both directions")
	require.GreaterOrEqual(t, res.SentBytes, int64(writes*4096))
	require.Equal(t, int64(writes*4096), s.written)
}

func TestAResyncSendsOnlyWhatDiffersAndZeroesWhatBecameZero(t *testing.T) {
	const size = 8 << 20
	p, s := seeded(t, size)
	require.NoError(t, p["vda"].WriteAt(ctx, random(8192, 7), 1<<20))
	require.NoError(t, p["vda"].WriteZeroes(ctx, 2<<20, 1<<20))          // a hole now
	require.NoError(t, p["vda"].WriteAt(ctx, make([]byte, 4096), 5<<20)) // written zeroes
	clear(s.parent["vda"][2<<20+4096 : 3<<20])                           // the standby knew of most of it
	res, err := replicate.Run(ctx, p.open, s.serve(t), request(2, snap("vda", size, model.ModeResync)), nil)
	require.NoError(t, err)
	requireSame(t, p, s)
	require.Equal(t, int64(8192+4096+4096), res.Disks[0].ChangedBytes)
	require.Equal(t, int64(8192), s.written)
	require.Less(t, res.SentBytes, int64(80_000))
	require.Equal(t, int64(size-1<<20), res.Disks[0].ReadBytes, "the hole is not read")
}

func TestAKilledSenderResumesWhatTheStandbyAcknowledged(t *testing.T) {
	blockiotest.NoLeak(t)
	const size = 96 << 20
	p, s := primary{"vda": filled(t, size)}, &standby{}
	c := s.serve(t)
	killed, kill := context.WithCancel(ctx)
	s.onWrite = func(_ context.Context, written int64) error {
		if written >= 48<<20 {
			kill()
		}
		return nil
	}
	_, err := replicate.Run(killed, p.open, c, request(1, snap("vda", size, model.ModeFull)), nil)
	require.ErrorIs(t, err, context.Canceled)
	require.Eventually(t, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.open == 0 }, 5*time.Second, time.Millisecond)
	acked := s.acked["vda"]
	require.GreaterOrEqual(t, acked, int64(32<<20))
	require.Less(t, acked, int64(size))

	s.onWrite, s.written = nil, 0
	res, err := replicate.Run(ctx, p.open, c, request(1, snap("vda", size, model.ModeFull)), nil)
	require.NoError(t, err)
	requireSame(t, p, s)
	require.True(t, res.Resumed)
	require.Equal(t, size-acked, s.written, "nothing that was acknowledged is sent again")
	require.Equal(t, size-acked, res.Disks[0].ReadBytes)

	again, err := replicate.Run(ctx, p.open, c, request(1, snap("vda", size, model.ModeFull)), nil)
	require.NoError(t, err)
	require.Zero(t, again.Disks[0].ReadBytes, "a run whose reply was lost costs nothing")
}

func TestAnotherCaptureDoesNotResume(t *testing.T) {
	p, s := primary{"vda": filled(t, 1<<20)}, &standby{}
	c, req := s.serve(t), request(1, snap("vda", 1<<20, model.ModeFull))
	_, err := replicate.Run(ctx, p.open, c, req, nil)
	require.NoError(t, err)
	req.Capture = "another"
	res, err := replicate.Run(ctx, p.open, c, req, nil)
	require.NoError(t, err)
	require.False(t, res.Resumed)
	require.Equal(t, int64(1<<20), res.Disks[0].ReadBytes)
}

func TestAFailureOfTheStandbyArrivesWithItsKind(t *testing.T) {
	blockiotest.NoLeak(t)
	for _, kind := range []model.Kind{model.TargetFull, model.ChainBroken, model.VerifyMismatch} {
		p, s := primary{"vda": filled(t, 32<<20)}, &standby{}
		s.onWrite = func(_ context.Context, written int64) error {
			if written > 4<<20 {
				return model.Fail(kind, errors.New("the cause"), "writing the disk").WithTry("do something")
			}
			return nil
		}
		_, err := replicate.Run(ctx, p.open, s.serve(t), request(1, snap("vda", 32<<20, model.ModeFull)), nil)
		var f *model.Failure
		require.ErrorAs(t, err, &f)
		require.Equal(t, kind, f.Kind)
		require.Equal(t, "do something", f.Try)
		require.Equal(t, model.HostID("host-b"), f.Host)
		require.Equal(t, "db1", f.VM)
		require.Contains(t, err.Error(), "the cause")
	}
}

func TestAGenerationThatIsOverIsRefusedAlsoInTheMiddle(t *testing.T) {
	p, s := primary{"vda": filled(t, 64<<20)}, &standby{floor: 2}
	c, req := s.serve(t), request(1, snap("vda", 64<<20, model.ModeFull))
	_, err := replicate.Run(ctx, p.open, c, req, nil)
	require.Equal(t, model.StaleGeneration, model.KindOf(err), "%v", err)
	require.Zero(t, s.sessions)
	req.Point.Generation = 2
	s.onWrite = func(context.Context, int64) error { return s.Admit(vm(), 3) }
	_, err = replicate.Run(ctx, p.open, c, req, nil)
	require.Equal(t, model.StaleGeneration, model.KindOf(err), "%v", err)
	require.Zero(t, s.acked["vda"])
}

func TestASourceThatFailsLeavesNothingMarkedThatWasNotRead(t *testing.T) {
	blockiotest.NoLeak(t)
	for _, op := range []mem.Op{mem.OpRead, mem.OpMap} {
		p, s := seeded(t, 32<<20)
		var calls atomic.Int32
		p["vda"].SetHook(func(_ context.Context, got mem.Op, off, _ int64) error {
			if got == op && (op == mem.OpRead && off >= 8<<20 || op == mem.OpMap && calls.Add(1) > 1) {
				return blockio.ErrDisconnected
			}
			return nil
		})
		_, err := replicate.Run(ctx, p.open, s.serve(t), request(2, snap("vda", 32<<20, model.ModeResync)), nil)
		require.Equal(t, model.NotRunning, model.KindOf(err), "%v", err)
		require.LessOrEqual(t, s.acked["vda"], int64(8<<20))
		require.Empty(t, s.finished)
	}
}

func TestASlowStandbyBoundsTheMemoryOfTheSender(t *testing.T) {
	blockiotest.NoLeak(t)
	const size = 256 << 20
	p, s := primary{"vda": filled(t, size)}, &standby{}
	c := s.serve(t)
	var read atomic.Int64
	p["vda"].SetHook(func(_ context.Context, op mem.Op, _, length int64) error {
		if op == mem.OpRead {
			read.Add(length)
		}
		return nil
	})
	s.onWrite = func(ctx context.Context, _ int64) error { <-ctx.Done(); return ctx.Err() }
	stopped, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		_, err := replicate.Run(stopped, p.open, c, request(1, snap("vda", size, model.ModeFull)), nil)
		done <- err
	}()
	var last int64
	require.Eventually(t, func() bool { now := read.Load(); same := now == last && now > 0; last = now; return same }, 10*time.Second, 300*time.Millisecond)
	require.Less(t, last, int64(48<<20), "read ahead of a standby that stands still")
	begun := time.Now()
	stop()
	require.ErrorIs(t, <-done, context.Canceled)
	require.Less(t, time.Since(begun), 2*time.Second)
}

func TestANewerSessionEndsTheOlder(t *testing.T) {
	blockiotest.NoLeak(t)
	p, s := primary{"vda": filled(t, 8<<20)}, &standby{}
	c, req := s.serve(t), request(1, snap("vda", 8<<20, model.ModeFull))
	stuck := make(chan struct{}, 100)
	s.onWrite = func(ctx context.Context, _ int64) error { stuck <- struct{}{}; <-ctx.Done(); return ctx.Err() }
	old := make(chan error, 1)
	go func() { _, err := replicate.Run(ctx, p.open, c, req, nil); old <- err }()
	<-stuck
	s.mu.Lock()
	s.onWrite = nil
	s.mu.Unlock()
	q := primary{"vda": filled(t, 8<<20)}
	_, err := replicate.Run(ctx, q.open, c, req, nil)
	require.NoError(t, err)
	require.Equal(t, model.Conflict, model.KindOf(<-old))
	requireSame(t, q, s)
	require.Equal(t, 1, s.peak, "never two in the store")
}

func TestALinkThatIsDownSaysWhere(t *testing.T) {
	p, s := primary{"vda": filled(t, 1<<20)}, &standby{}
	c := s.serve(t)
	host, err := c.Ping(ctx)
	require.NoError(t, err)
	require.Equal(t, model.HostID("host-b"), host)
	_ = c
	gone := closedAddress(t)
	_, err = replicate.Run(ctx, p.open, gone, request(1, snap("vda", 1<<20, model.ModeFull)), nil)
	require.Equal(t, model.LinkDown, model.KindOf(err), "%v", err)
	require.ErrorContains(t, err, "127.0.0.1:")
	require.ErrorContains(t, err, "Try: ")
}

func TestBandwidthIsKept(t *testing.T) {
	p, s := primary{"vda": filled(t, 2<<20)}, &standby{}
	req := request(1, snap("vda", 2<<20, model.ModeFull))
	req.MaxBandwidth = 2 << 20
	var said []replicate.Progress
	res, err := replicate.Run(ctx, p.open, s.serve(t), req, func(p replicate.Progress) { said = append(said, p) })
	require.NoError(t, err)
	requireSame(t, p, s)
	require.InDelta(t, 0.9, res.Took.Seconds(), 0.3)
	require.Greater(t, len(said), 2)
	last := said[len(said)-1]
	require.Equal(t, last.TotalBytes, last.DoneBytes)
}

func TestCompressionThatHelpsIsUsedAndOneThatDoesNotIsNot(t *testing.T) {
	text := mem.New(8 << 20)
	require.NoError(t, text.WriteAt(ctx, bytes.Repeat([]byte("all work and no play makes jack a dull boy. "), 8<<20/44), 0))
	for _, mode := range []string{"auto", "fast", "default", "best"} {
		for _, disk := range []*mem.Disk{text, filled(t, 8<<20)} {
			p, s := primary{"vda": disk}, &standby{}
			req := request(1, snap("vda", 8<<20, model.ModeFull))
			req.Compression = mode
			if mode == "auto" && disk == text {
				req.MaxBandwidth = 4 << 20 // auto leaves a link alone that is faster than the compressor
			}
			res, err := replicate.Run(ctx, p.open, s.serve(t), req, nil)
			require.NoError(t, err)
			requireSame(t, p, s)
			if disk == text {
				require.Less(t, res.SentBytes, int64(2<<20), mode)
			} else {
				require.InDelta(t, 8<<20, res.SentBytes, 100_000, mode)
			}
		}
	}
	_, err := replicate.Run(ctx, nil, nil, replicate.Request{Compression: "zip"}, nil)
	require.Equal(t, model.InvalidArgument, model.KindOf(err))
}

// Whatever the source and the parent point are, after a session the standby has the source.
func TestAfterASessionTheStandbyEqualsTheSource(t *testing.T) {
	s := &standby{}
	c := s.serve(t)
	seq := model.Seq(1)
	rapid.Check(t, func(rt *rapid.T) {
		seq++
		*s = standby{parent: map[string][]byte{}, floor: 1}
		p := primary{}
		var disks []model.SnapshotDisk
		for _, target := range []string{"vda", "vdb", "sda"}[:rapid.IntRange(1, 3).Draw(rt, "disks")] {
			size := rapid.SampledFrom([]int64{512, 4096, 65536, 3<<20 + 512, 2 << 20, 5<<20 - 512}).Draw(rt, "size")
			mode := rapid.SampledFrom([]model.DiskMode{model.ModeDelta, model.ModeResync, model.ModeFull}).Draw(rt, "mode")
			was := size
			if rapid.Bool().Draw(rt, "grown") {
				was = size / 1024 * 512
			}
			d := mem.New(size)
			scribble(rt, d, was)
			s.parent[target] = primaryBytes(rt, d)[:was]
			d.StartBitmap()
			scribble(rt, d, size)
			if mode == model.ModeFull {
				delete(s.parent, target)
			}
			p[target] = d
			disks = append(disks, snap(target, size, mode))
		}
		req := request(seq, disks...)
		req.Compression = rapid.SampledFrom([]string{"off", "auto", "fast"}).Draw(rt, "compression")
		res, err := replicate.Run(ctx, p.open, c, req, nil)
		require.NoError(rt, err)
		require.Len(rt, res.Disks, len(disks))
		requireSame(rt, p, s)
	})
}

// scribble writes here and there below limit.
func scribble(rt *rapid.T, d *mem.Disk, limit int64) {
	if limit == 0 {
		return
	}
	for range rapid.IntRange(0, 6).Draw(rt, "writes") {
		off := rapid.Int64Range(0, limit-1).Draw(rt, "off")
		n := min(rapid.SampledFrom([]int64{1, 512, 4096, 70_000, 2 << 20}).Draw(rt, "length"), limit-off)
		switch rapid.IntRange(0, 3).Draw(rt, "what") {
		case 0:
			require.NoError(rt, d.WriteZeroes(ctx, off, n))
		case 1:
			require.NoError(rt, d.WriteAt(ctx, make([]byte, n), off))
		default:
			require.NoError(rt, d.WriteAt(ctx, random(n, rapid.Uint64Range(0, 99).Draw(rt, "seed")), off))
		}
	}
}

func primaryBytes(t require.TestingT, d *mem.Disk) []byte { return primary{"x": d}.content(t, "x") }

func TestComparingDisksThatAreMostlyEqualCostsLittleMoreThanWhatDiffers(t *testing.T) {
	const size, changes = 128 << 20, 60
	p, s := seeded(t, size)
	for i := range int64(changes) { // one in each second cell
		require.NoError(t, p["vda"].WriteAt(ctx, random(4096, 1000+uint64(i)), i*2<<20+i%256*4096))
	}
	res, err := replicate.Run(ctx, p.open, s.serve(t), request(2, snap("vda", size, model.ModeResync)), nil)
	require.NoError(t, err)
	requireSame(t, p, s)
	require.Equal(t, int64(changes*4096), res.Disks[0].ChangedBytes)
	require.LessOrEqual(t, float64(res.SentBytes), 1.2*changes*4096)
}

// The other side wrote before the VM moved and was not replicated; this side has written since. What is lost is what the
// other side has of its own, also where this side wrote over it.
func TestWhatTheOtherSideWroteAndNeverReplicatedIsCounted(t *testing.T) {
	const size = 4 << 20
	p, s := seeded(t, size)
	was := mem.New(size)
	require.NoError(t, was.WriteAt(ctx, s.parent["vda"], 0))
	require.NoError(t, was.WriteZeroes(ctx, 3<<20, 1<<20))
	require.NoError(t, p["vda"].WriteZeroes(ctx, 3<<20, 1<<20))
	clear(s.parent["vda"][3<<20:])
	copy(s.parent["vda"][4096:], random(8192, 9))                    // written there: blocks 1 and 2
	require.NoError(t, p["vda"].WriteAt(ctx, random(8192, 7), 8192)) // written here: 2 and 3
	copy(s.parent["vda"][3<<20+65536:], random(12288, 3))            // there, where nothing was and nothing is
	same := random(4096, 5)                                          // the same on both sides
	copy(s.parent["vda"][1<<20:], same)
	require.NoError(t, p["vda"].WriteAt(ctx, same, 1<<20))
	req := request(2, snap("vda", size, model.ModeResync))
	req.Before = map[string]blockio.Source{"vda": was}
	res, err := replicate.Run(ctx, p.open, s.serve(t), req, nil)
	require.NoError(t, err)
	requireSame(t, p, s)
	require.Equal(t, int64(4096*5), res.Disks[0].UnreplicatedBytes, "blocks 1 and 2, and the three beyond")
	require.Equal(t, int64(4096*6), res.Disks[0].ChangedBytes)
}
