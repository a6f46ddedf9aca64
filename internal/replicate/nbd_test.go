package replicate_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/blockio"
	"understudy/internal/blockio/blockiotest"
	"understudy/internal/blockio/qemunbd"
	"understudy/internal/link"
	"understudy/internal/model"
	"understudy/internal/recoverypoint"
	"understudy/internal/replicate"
)

// realStore is the standby's store behind the seam of link.
type realStore struct{ *recoverypoint.Store }

func (realStore) Admit(model.VMRef, model.Generation) error { return nil }

func (r realStore) Stage(ctx context.Context, spec model.StagingSpec) (link.Staging, error) {
	st, err := r.Store.Stage(ctx, spec)
	if err != nil {
		return nil, err
	}
	return st, nil
}

func serveReal(t testing.TB) (*link.Client, *recoverypoint.Store) {
	t.Helper()
	store, err := recoverypoint.Open(t.TempDir(), recoverypoint.Options{Reserve: -1, RunDir: blockiotest.Folder(t)})
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := link.NewServer(realStore{store}, realStore{store}, "host-b", slog.New(slog.NewTextHandler(io.Discard, nil)))
	go func() { _ = server.Serve(l) }()
	c, err := link.Dial(ctx, l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close(); server.Stop(); _ = store.Close() })
	return c, store
}

// qcow2 is a disk behind qemu-nbd, as libvirt's backup job would show it.
func qcow2(t testing.TB, size int64, fill func(write func(p []byte, off int64))) (*qemunbd.Server, replicate.Open) {
	t.Helper()
	blockiotest.Tool(t, "qemu-nbd")
	raw := filepath.Join(t.TempDir(), "raw")
	f, err := os.Create(raw)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(size))
	fill(func(p []byte, off int64) {
		_, err := f.WriteAt(p, off)
		require.NoError(t, err)
	})
	require.NoError(t, f.Close())
	path := raw + ".qcow2"
	blockiotest.Run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path)
	require.NoError(t, os.Remove(raw))
	server, err := qemunbd.Start(ctx, qemunbd.Options{Image: qemunbd.Layer{Path: path, Format: "qcow2"}, ReadOnly: true, Socket: filepath.Join(blockiotest.Folder(t), "s")})
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Stop(ctx) })
	return server, func(ctx context.Context, _ string) (blockio.Source, error) { return server.Connect(ctx) }
}

func TestADiskBehindNBDArrivesInTheRealStore(t *testing.T) {
	blockiotest.NoLeak(t)
	const size = 64 << 20
	_, open := qcow2(t, size, func(write func([]byte, int64)) {
		for i := range int64(5) {
			write(random(3<<20+512, uint64(i)), i*11<<20+4096)
		}
	})
	c, store := serveReal(t)
	req := request(1, snap("vda", size, model.ModeFull))
	req.Compression = "auto"
	_, err := replicate.Run(ctx, open, c, req, nil)
	require.NoError(t, err)
	again, err := replicate.Run(ctx, open, c, req, nil)
	require.NoError(t, err)
	require.True(t, again.Resumed)
	require.Zero(t, again.Disks[0].ReadBytes)

	_, images, err := store.Staged(ctx, vm(), req.Point)
	require.NoError(t, err)
	got, err := os.ReadFile(images[0].Layers[0].Path)
	require.NoError(t, err)
	source, err := open(ctx, "vda")
	require.NoError(t, err)
	want := make([]byte, size)
	require.NoError(t, source.ReadAt(ctx, want, 0))
	require.NoError(t, source.Close())
	require.True(t, bytes.Equal(want, got))

	_, err = replicate.Run(ctx, open, c, request(3, snap("vda", size, model.ModeDelta)), nil)
	require.Contains(t, []model.Kind{model.ChainBroken, model.CheckpointLost}, model.KindOf(err), "%v", err)
}

// BenchmarkAgainstNBDCopy compares a first full replication into the real store with nbdcopy into a local file.
func BenchmarkAgainstNBDCopy(b *testing.B) {
	const size, data = 4 << 30, 512 << 20
	nbdcopy := blockiotest.Tool(b, "nbdcopy")
	server, open := qcow2(b, size, func(write func([]byte, int64)) {
		for i := range int64(data >> 20) {
			write(random(1<<20, uint64(i)), i*7<<20)
		}
	})
	var theirs, ours time.Duration
	dir := b.TempDir()
	b.SetBytes(2 * data)
	for b.Loop() {
		local := filepath.Join(dir, "copy")
		begun := time.Now()
		f, err := os.Create(local)
		require.NoError(b, err)
		require.NoError(b, f.Truncate(size))
		require.NoError(b, f.Close())
		out, err := exec.Command(nbdcopy, "--destination-is-zero", "--flush", "nbd+unix:///?socket="+server.Socket(), local).CombinedOutput()
		require.NoError(b, err, string(out))
		theirs += time.Since(begun)
		require.NoError(b, os.Remove(local))

		c, _ := serveReal(b)
		begun = time.Now()
		req := request(1, snap("vda", size, model.ModeFull))
		req.Compression = "auto"
		_, err = replicate.Run(ctx, open, c, req, nil)
		require.NoError(b, err)
		ours += time.Since(begun)
	}
	b.ReportMetric(data/theirs.Seconds()*float64(b.N)/1e6, "nbdcopy-MB/s")
	b.ReportMetric(data/ours.Seconds()*float64(b.N)/1e6, "ours-MB/s")
	b.ReportMetric(theirs.Seconds()/ours.Seconds(), "ours/nbdcopy")
}
