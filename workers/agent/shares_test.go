package agent

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/activities"
	"understudy/internal/blockio"
	"understudy/internal/blockio/mem"
	"understudy/internal/link"
	"understudy/internal/model"
	"understudy/internal/replicate"
)

// sink is a standby that takes everything and keeps nothing.
type sink struct{ bytes atomic.Int64 }

func (*sink) Admit(model.VMRef, model.Generation) error { return nil }
func (*sink) Stage(context.Context, model.StagingSpec) (link.Staging, error) {
	return sinkStaging{}, nil
}

func (s *sink) Accept(c net.Conn) net.Conn { return &countedConn{c, &s.bytes} }

type countedConn struct {
	net.Conn
	n *atomic.Int64
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.n.Add(int64(n))
	return n, err
}

type countedListener struct {
	net.Listener
	s *sink
}

func (l countedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.s.Accept(c), nil
}

type sinkStaging struct{}

func (sinkStaging) Seed() uint64                                                       { return 1 }
func (sinkStaging) Acked() map[string]int64                                            { return nil }
func (sinkStaging) Write(context.Context, string, int64, []byte, []model.Digest) error { return nil }
func (sinkStaging) WriteZeroes(context.Context, string, int64, int64) error            { return nil }
func (sinkStaging) Ack(context.Context, string, int64) error                           { return nil }
func (sinkStaging) Finish(context.Context, string) error                               { return nil }
func (sinkStaging) Close() error                                                       { return nil }
func (sinkStaging) Digests(_ context.Context, _ string, _ int64, dst []model.Digest) error {
	clear(dst)
	return nil
}

// fleet is VMs of one host that send to a sink over loopback, under a budget.
type fleet struct {
	t      *testing.T
	shares *shares
	sink   *sink
	client *link.Client
	mu     sync.Mutex
	oldest map[string]time.Time
}

func newFleet(t *testing.T, budget int64) *fleet {
	f := &fleet{t: t, sink: &sink{}, oldest: map[string]time.Time{}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	log := slog.New(slog.DiscardHandler)
	server := link.NewServer(f.sink, f.sink, "host-b", log)
	served := make(chan error, 1)
	go func() { served <- server.Serve(countedListener{l, f.sink}) }()
	f.client, err = link.Dial(context.Background(), l.Addr().String())
	require.NoError(t, err)
	f.shares = newShares(budget, time.Now, f.exposure, func() int { return 3 }, log)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { f.shares.run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		require.NoError(t, f.client.Close())
		server.Stop()
		require.NoError(t, <-served)
	})
	return f
}

func (f *fleet) exposure(uuid string) (*time.Time, time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at, ok := f.oldest[uuid]
	if !ok {
		return nil, 0
	}
	return &at, 0
}

// ended is how a transfer went.
type ended struct {
	took time.Duration
	activities.Granted
}

// send starts a transfer of so many bytes by a VM whose oldest write has an age.
func (f *fleet) send(tier model.Tier, rpo, age time.Duration, bytes, demand int64) <-chan ended {
	uuid := map[model.Tier]string{
		model.Gold: "11111111-2222-3333-4444-000000000001", model.Silver: "11111111-2222-3333-4444-000000000002", model.Bronze: "11111111-2222-3333-4444-000000000003",
	}[tier]
	f.mu.Lock()
	f.oldest[uuid] = time.Now().Add(-age)
	f.mu.Unlock()
	d := mem.New(bytes)
	data := make([]byte, bytes)
	_, _ = rand.NewChaCha8([32]byte{byte(len(tier))}).Read(data)
	require.NoError(f.t, d.WriteAt(context.Background(), data, 0))
	vm := model.VMRef{Name: string(tier), UUID: uuid}
	out := make(chan ended, 1)
	begun := time.Now()
	s := f.shares.Join(activities.Transfer{VM: vm, Tier: tier, RPO: rpo, Demand: demand, Look: bytes, Disks: 1})
	go func() {
		_, err := replicate.Run(context.Background(), func(context.Context, string) (blockio.Source, error) { return d, nil }, f.client, replicate.Request{
			VM: vm, Point: model.PointRef{Generation: 1, Seq: 2}, Capture: "one", Compression: "off", Lane: s.Lane(),
			Disks: []model.SnapshotDisk{{Disk: model.Disk{Target: "vda", Size: bytes}, Mode: model.ModeFull, DirtyBytes: bytes}},
		}, s.Progress)
		if err != nil {
			f.t.Errorf("%s: %v", tier, err)
		}
		out <- ended{time.Since(begun), s.Leave(bytes)}
	}()
	return out
}

func TestTransfersThatShareALinkStayWithinItsBudgetAndKeepTheirPromises(t *testing.T) {
	const budget = 6 << 20
	f := newFleet(t, budget)
	begun := time.Now()
	// A bronze VM bursts far beyond what it was admitted with, and is late already.
	bronze := f.send(model.Bronze, 10*time.Second, 12*time.Second, 20<<20, 100<<10)
	time.Sleep(300 * time.Millisecond)
	silver := f.send(model.Silver, 10*time.Second, 5*time.Second, 6<<20, 4<<20) // as admitted; 4.5 s are left
	time.Sleep(200 * time.Millisecond)
	gold := f.send(model.Gold, 10*time.Second, 8500*time.Millisecond, 1<<20, 4<<20) // a second is left

	g := <-gold
	require.Empty(t, silver, "the most urgent one ends first")
	require.Less(t, g.took, 2500*time.Millisecond, "a sixth of a second's worth of budget, on a machine that may be busy")
	s := <-silver
	require.Less(t, s.took, 4500*time.Millisecond, "its promise, for a burst of 20 MiB beside it")
	require.Empty(t, bronze, "the burst ends last")
	b := <-bronze
	rate := float64(f.sink.bytes.Load()) / time.Since(begun).Seconds()
	require.Less(t, rate, 1.1*budget, "on the wire, with all that frames cost")
	require.Greater(t, rate, 0.25*budget, "and not idle, also on a busy machine")
	require.True(t, b.Limited)
	require.NotEmpty(t, b.Reason)
	require.Less(t, b.Rate, int64(budget))
	require.Greater(t, time.Since(begun), 4*time.Second, "27 MiB at 6 MiB/s")
	_, use := f.shares.Use()
	require.InDelta(t, 27.0/6/60, use, 0.01, "of the last minute")
}

func TestALoneTransferHasTheWholeBudgetButNoMore(t *testing.T) {
	const budget = 4 << 20
	e := <-newFleet(t, budget).send(model.Bronze, time.Minute, time.Second, 4<<20, 0)
	require.Greater(t, e.took, 900*time.Millisecond)
	require.Less(t, e.took, 4*time.Second)
	require.InEpsilon(t, budget, e.Rate, 0.5)
}

func TestRatesAreReadInBitsAndBytes(t *testing.T) {
	for text, want := range map[string]int64{"": 0, "0": 0, "100mbit": 12_500_000, "1Gbit/s": 125_000_000, "12MB": 12_000_000, "1.5MiB/s": 3 << 19, "800kbit": 100_000} {
		got, err := parseRate(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{"-1MB", "fast", "1kbit", "12M", "1e30GB"} {
		_, err := parseRate(text)
		require.Error(t, err, text)
	}
}
