package nbd_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/blockio"
	"understudy/internal/blockio/blockiotest"
	"understudy/internal/blockio/nbd"
	"understudy/internal/blockio/qemunbd"
)

func dial(t testing.TB, socket string, opts nbd.Options) *nbd.Client {
	t.Helper()
	c, err := nbd.DialUnix(context.Background(), socket, opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func serve(t testing.TB, opts qemunbd.Options) *qemunbd.Server {
	t.Helper()
	blockiotest.Tool(t, "qemu-nbd")
	opts.Socket = filepath.Join(blockiotest.Folder(t), "s")
	if opts.Image.Format == "" {
		opts.Image.Format = qemunbd.Qcow2
	}
	s, err := qemunbd.Start(context.Background(), opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Stop(context.Background())) })
	return s
}

func connect(t testing.TB, s *qemunbd.Server) *nbd.Client {
	t.Helper()
	c, err := s.Connect(context.Background())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func extents(t testing.TB, m blockio.Mapper, what blockio.Map, off, length int64) (all []blockio.Extent) {
	t.Helper()
	require.NoError(t, m.Map(context.Background(), what, off, length, func(e blockio.Extent) error {
		all = append(all, e)
		return nil
	}))
	return all
}

func TestConformanceQemuNbd(t *testing.T) {
	disk := func(t testing.TB, size int64, opts qemunbd.Options) blockio.Target {
		opts.Image.Path = blockiotest.Image(t, strconv.FormatInt(size, 10))
		return connect(t, serve(t, opts))
	}
	blockiotest.Conformance(t, blockiotest.Adapter{
		New: func(t testing.TB, size int64) blockio.Target { return disk(t, size, qemunbd.Options{}) },
		ReadOnly: func(t testing.TB, size int64) blockio.Target {
			return disk(t, size, qemunbd.Options{ReadOnly: true})
		},
		Sparse: true,
	})
}

func TestConformanceNbdkit(t *testing.T) {
	for _, c := range []struct {
		name   string
		sparse bool
		args   []string
	}{
		{"memory", true, nil},
		{"no write zeroes", false, []string{"--filter=nozero"}},
		{"blocks of 4096 and little payload", false, []string{
			"--filter=blocksize-policy", "blocksize-minimum=4096", "blocksize-preferred=4096", "blocksize-maximum=65536",
			"blocksize-error-policy=error"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			disk := func(t testing.TB, size int64, more ...string) blockio.Target {
				size = (size + 4095) &^ 4095
				args := append(more, "memory", strconv.FormatInt(size, 10))
				for _, a := range c.args {
					if a[0] == '-' {
						args = append([]string{a}, args...)
					} else {
						args = append(args, a)
					}
				}
				socket, _ := blockiotest.Nbdkit(t, args...)
				return dial(t, socket, nbd.Options{})
			}
			blockiotest.Conformance(t, blockiotest.Adapter{
				New:      func(t testing.TB, size int64) blockio.Target { return disk(t, size) },
				ReadOnly: func(t testing.TB, size int64) blockio.Target { return disk(t, size, "--readonly") },
				Sparse:   c.sparse,
			})
		})
	}
}

// TestDirtyBitmap: writes made through qemu-nbd are in the persistent bitmap, by
// clusters of 64 KiB, and the bitmap is read back over a read-only export.
func TestDirtyBitmap(t *testing.T) {
	blockiotest.NoLeak(t)
	ctx := context.Background()
	const cluster = 64 << 10
	image := blockiotest.Image(t, "64M")
	blockiotest.Run(t, "qemu-img", "bitmap", "--add", image, "understudy-1")

	w := serve(t, qemunbd.Options{Image: qemunbd.Layer{Path: image}})
	c := connect(t, w)
	require.NoError(t, c.WriteAt(ctx, bytes.Repeat([]byte{7}, 4096), 3*cluster+100))
	require.NoError(t, c.WriteAt(ctx, bytes.Repeat([]byte{7}, 2*cluster), 10*cluster))
	require.NoError(t, c.WriteZeroes(ctx, 20*cluster, cluster))
	require.NoError(t, c.Flush(ctx))
	require.NoError(t, c.Close())
	require.NoError(t, w.Stop(ctx))

	r := serve(t, qemunbd.Options{Image: qemunbd.Layer{Path: image}, ReadOnly: true, Bitmap: "understudy-1", Shared: 4})
	d := connect(t, r)
	require.True(t, d.Info().ReadOnly)
	ext := func(from, to int64, k blockio.Kind) blockio.Extent {
		return blockio.Extent{Offset: from, Length: to - from, Kind: k}
	}
	require.Equal(t, []blockio.Extent{
		ext(0, 3*cluster, blockio.Clean), ext(3*cluster, 4*cluster, blockio.Dirty),
		ext(4*cluster, 10*cluster, blockio.Clean), ext(10*cluster, 12*cluster, blockio.Dirty),
		ext(12*cluster, 20*cluster, blockio.Clean), ext(20*cluster, 21*cluster, blockio.Dirty),
		ext(21*cluster, 64<<20, blockio.Clean),
	}, extents(t, d, blockio.DirtyBitmap, 0, d.Size()))
	require.Equal(t, []blockio.Extent{
		ext(3*cluster+5, 4*cluster, blockio.Dirty), ext(4*cluster, 4*cluster+1, blockio.Clean),
	}, extents(t, d, blockio.DirtyBitmap, 3*cluster+5, cluster-4))
	data := int64(0)
	for _, e := range extents(t, d, blockio.Allocation, 0, d.Size()) {
		if e.Kind == blockio.Data {
			data += e.Length
		}
	}
	require.GreaterOrEqual(t, data, int64(2*cluster+4096)) // the rest of cluster 3 may be a hole of the file
	require.LessOrEqual(t, data, int64(3*cluster))

	names, err := nbd.ListContexts(ctx, r.Socket(), "")
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"base:allocation", "qemu:dirty-bitmap:understudy-1"}, names)

	_, err = nbd.DialUnix(ctx, r.Socket(), nbd.Options{Bitmap: "other"})
	require.ErrorIs(t, err, blockio.ErrNoMap)
	_, err = nbd.DialUnix(ctx, r.Socket(), nbd.Options{Export: "other"})
	var refusal *nbd.HandshakeError
	require.ErrorAs(t, err, &refusal)
	require.True(t, refusal.UnknownExport(), "%v", err)
}

// TestHugeDisk: the map of 16 TiB comes in bounded pages and little time.
func TestHugeDisk(t *testing.T) {
	blockiotest.NoLeak(t)
	image := blockiotest.Image(t, "16T")
	c := connect(t, serve(t, qemunbd.Options{Image: qemunbd.Layer{Path: image}}))
	const at = 9<<40 + 12345
	require.NoError(t, c.WriteAt(context.Background(), []byte("x"), at))
	start := time.Now()
	got := extents(t, c, blockio.Allocation, 0, c.Size())
	t.Logf("%d extents in %v", len(got), time.Since(start))
	require.Len(t, got, 3)
	require.Equal(t, int64(16<<40), got[2].End())
	require.LessOrEqual(t, got[1].Offset, int64(at))
	require.Greater(t, got[1].End(), int64(at))
}

// TestSimpleReplies: a server without structured replies can be read and written, and
// has no maps.
func TestSimpleReplies(t *testing.T) {
	blockiotest.NoLeak(t)
	ctx := context.Background()
	socket, _ := blockiotest.Nbdkit(t, "--no-sr", "--filter=error", "memory", "1M", "error-zero-rate=100%")
	c := dial(t, socket, nbd.Options{})
	require.False(t, c.Info().Structured)
	p, q := bytes.Repeat([]byte{9}, 5000), make([]byte, 5000)
	require.NoError(t, c.WriteAt(ctx, p, 77))
	require.NoError(t, c.ReadAt(ctx, q, 77))
	require.Equal(t, p, q)
	require.ErrorIs(t, c.WriteZeroes(ctx, 0, 512), syscall.EIO)
	require.NoError(t, c.Flush(ctx))
	require.ErrorIs(t, c.Map(ctx, blockio.Allocation, 0, 1, nil), blockio.ErrNoMap)
	_, err := nbd.DialUnix(ctx, socket, nbd.Options{Bitmap: "x"})
	require.ErrorIs(t, err, blockio.ErrNoMap)
	_, err = nbd.ListContexts(ctx, socket, "")
	require.ErrorIs(t, err, blockio.ErrNoMap)
}

// TestSplit: one call larger than a server takes at once.
func TestSplit(t *testing.T) {
	blockiotest.NoLeak(t)
	ctx := context.Background()
	socket, _ := blockiotest.Nbdkit(t, "memory", "100M")
	c := dial(t, socket, nbd.Options{})
	p, q := make([]byte, 90<<20), make([]byte, 90<<20)
	for i := 0; i < len(p); i += 1000 {
		p[i] = byte(i >> 8)
	}
	require.NoError(t, c.WriteAt(ctx, p, 12345))
	require.NoError(t, c.ReadAt(ctx, q, 12345))
	require.True(t, bytes.Equal(p, q))
}

// TestServerErrors: an error of one request is typed and costs nobody else anything.
func TestServerErrors(t *testing.T) {
	blockiotest.NoLeak(t)
	ctx := context.Background()
	for _, c := range []struct {
		name  string
		args  []string
		errno syscall.Errno
	}{
		{"EIO", []string{"--filter=error", "memory", "1M", "error-rate=100%"}, syscall.EIO},
		{"ENOSPC", []string{"--filter=error", "memory", "1M", "error=ENOSPC", "error-rate=100%"}, syscall.ENOSPC},
	} {
		t.Run(c.name, func(t *testing.T) {
			socket, _ := blockiotest.Nbdkit(t, c.args...)
			d := dial(t, socket, nbd.Options{})
			for _, err := range []error{
				d.ReadAt(ctx, make([]byte, 512), 4096), d.WriteAt(ctx, make([]byte, 512), 4096),
				d.WriteZeroes(ctx, 4096, 512),
				d.Map(ctx, blockio.Allocation, 4096, 512, func(blockio.Extent) error { return nil }),
			} {
				var se *nbd.ServerError
				require.ErrorAs(t, err, &se)
				require.ErrorIs(t, err, c.errno)
				require.Equal(t, int64(4096), se.Offset)
				require.NotErrorIs(t, err, blockio.ErrDisconnected)
			}
			require.NoError(t, d.Err())
		})
	}
}

// TestSomeErrors: with half of the requests failing and many in flight, each call gets
// its own answer.
func TestSomeErrors(t *testing.T) {
	blockiotest.NoLeak(t)
	socket, _ := blockiotest.Nbdkit(t, "--filter=error", "pattern", "16M", "error-rate=50%")
	c := dial(t, socket, nbd.Options{})
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			p := make([]byte, 32<<10)
			for i := range 100 {
				off := int64((w*100+i)%500) * (32 << 10)
				err := c.ReadAt(context.Background(), p, off)
				if err == nil && (p[6] != byte(off>>8) || p[5] != byte(off>>16)) { // the pattern is each word's own offset
					t.Errorf("wrong bytes at %d", off)
				}
				if err != nil && !errors.Is(err, syscall.EIO) {
					t.Errorf("%v", err)
				}
			}
		})
	}
	wg.Wait()
}

// TestServerDies: kill -9 with requests in flight wakes all of them, soon and typed.
func TestServerDies(t *testing.T) {
	blockiotest.NoLeak(t)
	socket, proc := blockiotest.Nbdkit(t, "--filter=delay", "memory", "64M", "rdelay=60", "wdelay=60")
	c := dial(t, socket, nbd.Options{})
	ctx := context.Background()
	const calls = 24
	errs := make(chan error, calls)
	for i := range calls {
		go func() {
			if i%2 == 0 {
				errs <- c.ReadAt(ctx, make([]byte, 4096), 0)
			} else {
				errs <- c.WriteAt(ctx, make([]byte, 1<<20), 0)
			}
		}()
	}
	time.Sleep(50 * time.Millisecond)
	require.NoError(t, proc.Kill())
	start := time.Now()
	for range calls {
		require.ErrorIs(t, <-errs, blockio.ErrDisconnected)
	}
	require.Less(t, time.Since(start), 5*time.Second)
	<-c.Done()
	require.ErrorIs(t, c.Err(), blockio.ErrDisconnected)
	require.ErrorIs(t, c.ReadAt(ctx, make([]byte, 1), 0), blockio.ErrDisconnected)
	require.ErrorIs(t, c.Flush(ctx), blockio.ErrDisconnected)
}

// TestCancelInFlight: cancelled calls return at once with their context's error, and
// the late answers neither touch their buffers nor hurt the calls that follow.
func TestCancelInFlight(t *testing.T) {
	blockiotest.NoLeak(t)
	socket, _ := blockiotest.Nbdkit(t, "--filter=delay", "pattern", "64M", "rdelay=2")
	c := dial(t, socket, nbd.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	const calls = 12
	var wg sync.WaitGroup
	bufs := make([][]byte, calls)
	for i := range calls {
		wg.Go(func() {
			bufs[i] = bytes.Repeat([]byte{0xee}, 64<<10)
			if err := c.ReadAt(ctx, bufs[i], int64(i)<<16); !errors.Is(err, context.Canceled) {
				t.Errorf("%v", err)
			}
		})
	}
	time.Sleep(100 * time.Millisecond)
	start := time.Now()
	cancel()
	wg.Wait()
	require.Less(t, time.Since(start), 1500*time.Millisecond)
	p := make([]byte, 8)
	require.NoError(t, c.ReadAt(context.Background(), p, 8)) // its answer comes after theirs
	require.Equal(t, []byte{0, 0, 0, 0, 0, 0, 0, 8}, p)
	for _, b := range bufs {
		require.Equal(t, len(b), bytes.Count(b, []byte{0xee}))
	}
	require.NoError(t, c.Err())
}
