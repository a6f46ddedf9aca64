package replicate_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/internal/blockio"
	"understudy/internal/blockio/digest"
	"understudy/internal/blockio/mem"
	"understudy/internal/link"
	"understudy/internal/model"
	"understudy/internal/replicate"
)

const seed = 42

func vm() model.VMRef {
	return model.VMRef{Name: "db1", UUID: "11111111-2222-3333-4444-555555555555"}
}

// standby is a store in memory that insists on the contract of link.Staging.
type standby struct {
	mu       sync.Mutex
	parent   map[string][]byte // content of the newest committed point
	staged   map[string][]byte
	acked    map[string]int64
	finished map[string]bool
	capture  string
	floor    model.Generation
	sessions int
	open     int
	peak     int

	onWrite func(ctx context.Context, written int64) error
	written int64
}

func (s *standby) Admit(_ model.VMRef, g model.Generation) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g < s.floor {
		return model.Fail(model.StaleGeneration, nil, "generation %d is refused", g)
	}
	s.floor = g
	return nil
}

func (s *standby) Stage(_ context.Context, spec model.StagingSpec) (link.Staging, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions++
	s.open++
	s.peak = max(s.peak, s.open)
	if s.staged == nil || s.capture != spec.Capture {
		s.staged, s.acked, s.finished = map[string][]byte{}, map[string]int64{}, map[string]bool{}
		s.capture = spec.Capture
	}
	g := &staging{standby: s, next: map[string]int64{}, full: map[string]bool{}}
	for _, d := range spec.Disks {
		g.full[d.Target] = d.Mode == model.ModeFull
		if s.staged[d.Target] == nil {
			s.staged[d.Target] = make([]byte, d.Size)
			if d.Mode != model.ModeFull {
				copy(s.staged[d.Target], s.parent[d.Target])
			}
		}
		g.next[d.Target] = s.acked[d.Target]
	}
	return g, nil
}

type staging struct {
	*standby
	next map[string]int64
	full map[string]bool
}

func (g *staging) Seed() uint64 { return seed }

func (g *staging) Acked() map[string]int64 {
	out := map[string]int64{}
	for t, a := range g.acked {
		out[t] = a
	}
	return out
}

func (g *staging) Digests(_ context.Context, target string, off int64, dst []model.Digest) error {
	clear(dst)
	parent := g.parent[target]
	if off >= int64(len(parent)) || g.full[target] {
		return nil
	}
	p := parent[off:min(off+int64(len(dst))*model.BlockSize, int64(len(parent)))]
	digest.Blocks(seed, p, dst)
	return nil
}

func (g *staging) turn(target string, off, length int64) error {
	size := int64(len(g.staged[target]))
	end := off + length
	if off < g.next[target] || length <= 0 || end > size || off%model.BlockSize != 0 || end%model.BlockSize != 0 && end != size {
		return fmt.Errorf("run of %d at %d after %d of %d", length, off, g.next[target], size)
	}
	g.next[target] = end
	return nil
}

func (g *staging) Write(ctx context.Context, target string, off int64, data []byte, digests []model.Digest) error {
	g.mu.Lock()
	err := g.turn(target, off, int64(len(data)))
	is := make([]model.Digest, digest.Count(int64(len(data))))
	digest.Blocks(seed, data, is)
	for i := range is {
		if len(digests) != len(is) || is[i] != digests[i] || is[i] == (model.Digest{}) {
			err = fmt.Errorf("digest of block %d of the run at %d", i, off)
		}
	}
	g.written += int64(len(data))
	written, hook := g.written, g.onWrite
	g.mu.Unlock()
	if err == nil && hook != nil {
		err = hook(ctx, written)
	}
	if err == nil {
		copy(g.staged[target][off:], data)
	}
	return err
}

func (g *staging) WriteZeroes(_ context.Context, target string, off, length int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.turn(target, off, length); err != nil {
		return err
	}
	clear(g.staged[target][off : off+length])
	return nil
}

func (g *staging) Ack(_ context.Context, target string, upTo int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.acked[target] = upTo
	return nil
}

func (g *staging) Finish(_ context.Context, target string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.finished[target] = true
	return nil
}

func (g *staging) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open--
	return nil
}

// serve gives a client of the standby over loopback.
func (s *standby) serve(t testing.TB) *link.Client {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := link.NewServer(s, s, "host-b", slog.New(slog.NewTextHandler(io.Discard, nil)))
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	c, err := link.Dial(context.Background(), l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, c.Close())
		server.Stop()
		require.NoError(t, <-served)
	})
	return c
}

// primary is disks by target, opened as often as is wanted.
type primary map[string]*mem.Disk

func (p primary) open(_ context.Context, target string) (blockio.Source, error) {
	p[target].Reopen()
	return p[target], nil
}

func (p primary) content(t require.TestingT, target string) []byte {
	p[target].Reopen()
	b := make([]byte, p[target].Size())
	require.NoError(t, p[target].ReadAt(context.Background(), b, 0))
	return b
}

func request(seq model.Seq, disks ...model.SnapshotDisk) replicate.Request {
	return replicate.Request{
		VM: vm(), Point: model.PointRef{Generation: 1, Seq: seq}, Parent: model.PointRef{Generation: 1, Seq: seq - 1},
		Capture: fmt.Sprintf("capture-%d", seq), Disks: disks, Compression: "off",
	}
}

func snap(target string, size int64, mode model.DiskMode) model.SnapshotDisk {
	return model.SnapshotDisk{Disk: model.Disk{Target: target, Size: size}, Mode: mode, DirtyBytes: -1}
}

func requireSame(t require.TestingT, p primary, s *standby) {
	for target := range p {
		require.True(t, bytes.Equal(p.content(t, target), s.staged[target]), "disk %s differs", target)
		require.True(t, s.finished[target], "disk %s is not finished", target)
	}
}

// closedAddress gives a client of an address where nobody listens.
func closedAddress(t testing.TB) *link.Client {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	c, err := link.Dial(context.Background(), l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}
