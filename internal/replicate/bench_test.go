package replicate_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/internal/blockio"
	"understudy/internal/blockio/file"
	"understudy/internal/link"
	"understudy/internal/model"
	"understudy/internal/replicate"
)

// rawStore stages into a raw file, as quickly as a store could.
type rawStore struct{ dir string }

func (r rawStore) Admit(model.VMRef, model.Generation) error { return nil }

func (r rawStore) Stage(_ context.Context, spec model.StagingSpec) (link.Staging, error) {
	f, err := file.Create(filepath.Join(r.dir, spec.PointRef.String()), spec.Disks[0].Size)
	return rawStaging{f}, err
}

type rawStaging struct{ f *file.File }

func (rawStaging) Seed() uint64            { return seed }
func (rawStaging) Acked() map[string]int64 { return nil }
func (rawStaging) Digests(_ context.Context, _ string, _ int64, d []model.Digest) error {
	clear(d)
	return nil
}
func (r rawStaging) Write(ctx context.Context, _ string, off int64, p []byte, _ []model.Digest) error {
	return r.f.WriteAt(ctx, p, off)
}
func (r rawStaging) WriteZeroes(ctx context.Context, _ string, off, n int64) error {
	return r.f.WriteZeroes(ctx, off, n)
}
func (rawStaging) Ack(context.Context, string, int64) error { return nil }
func (rawStaging) Finish(context.Context, string) error     { return nil }
func (r rawStaging) Close() error                           { return r.f.Close() }

// BenchmarkFull replicates a sparse 4 GiB file with 512 MiB of data over loopback into a raw file.
func BenchmarkFull(b *testing.B) {
	const size, data = 4 << 30, 512 << 20
	for _, kind := range []string{"random", "text"} {
		dir := b.TempDir()
		path := filepath.Join(dir, "source")
		f, err := file.Create(path, size)
		require.NoError(b, err)
		chunk := random(1<<20, 3)
		if kind == "text" {
			for i := range chunk {
				chunk[i] = "etaoin shrdlu 0123456789\n"[chunk[i]%25]
			}
		}
		for i := range int64(data >> 20) {
			require.NoError(b, f.WriteAt(ctx, chunk, i*7<<20))
		}
		require.NoError(b, f.Close())
		for _, mode := range []string{"off", "auto", "fast"} {
			b.Run(kind+"/"+mode, func(b *testing.B) { benchmark(b, path, size, data, mode) })
		}
	}
}

func benchmark(b *testing.B, path string, size, data int64, mode string) {
	store := rawStore{b.TempDir()}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	server := link.NewServer(store, store, "host-b", slog.New(slog.NewTextHandler(io.Discard, nil)))
	go func() { _ = server.Serve(l) }()
	defer server.Stop()
	c, err := link.Dial(ctx, l.Addr().String())
	require.NoError(b, err)
	defer c.Close()
	open := func(context.Context, string) (blockio.Source, error) {
		return file.Open(path, file.Options{ReadOnly: true})
	}
	b.SetBytes(data)
	b.ReportAllocs()
	seq, wire := model.Seq(0), int64(0)
	for b.Loop() {
		seq++
		req := request(seq, snap("vda", size, model.ModeFull))
		req.Compression = mode
		res, err := replicate.Run(ctx, open, c, req, nil)
		require.NoError(b, err)
		wire = res.SentBytes
		require.NoError(b, os.Remove(filepath.Join(store.dir, req.Point.String())))
	}
	b.ReportMetric(float64(wire)/float64(data), "wire/data")
}
