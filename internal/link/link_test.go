package link

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"

	"understudy/internal/model"
)

// sink is a store that takes everything.
type sink struct {
	wrote  [][]byte
	digest func(context.Context) error
	stage  func(context.Context) error
}

func (s *sink) Admit(model.VMRef, model.Generation) error { return nil }
func (s *sink) Stage(ctx context.Context, _ model.StagingSpec) (Staging, error) {
	if s.stage != nil {
		return s, s.stage(ctx)
	}
	return s, nil
}
func (*sink) Seed() uint64            { return 7 }
func (*sink) Acked() map[string]int64 { return nil }
func (s *sink) Digests(ctx context.Context, _ string, _ int64, dst []model.Digest) error {
	for i := range dst {
		dst[i] = model.Digest{9}
	}
	if s.digest != nil {
		return s.digest(ctx)
	}
	return nil
}
func (s *sink) Write(_ context.Context, _ string, _ int64, p []byte, _ []model.Digest) error {
	s.wrote = append(s.wrote, append([]byte(nil), p...))
	return nil
}
func (*sink) WriteZeroes(context.Context, string, int64, int64) error { return nil }
func (*sink) Ack(context.Context, string, int64) error                { return nil }
func (*sink) Finish(context.Context, string) error                    { return nil }
func (*sink) Close() error                                            { return nil }

const gib = 1 << 30

func spec() model.StagingSpec {
	return model.StagingSpec{
		VM: model.VMRef{Name: "db1", UUID: "11111111-2222-3333-4444-555555555555"}, PointRef: model.PointRef{Generation: 1, Seq: 2}, Parent: 1,
		Disks: []model.StagingDisk{{Target: "vda", Size: gib, Mode: model.ModeDelta}, {Target: "vdb", Size: 4608, Mode: model.ModeResync}},
	}
}

func serve(t *testing.T, s *sink, change func(*Server)) *Client {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := NewServer(s, s, "host-b", slog.New(slog.NewTextHandler(io.Discard, nil)))
	if change != nil {
		change(server)
	}
	go func() { _ = server.Serve(l) }()
	c, err := Dial(context.Background(), l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close(); server.Stop() })
	return c
}

func session(t *testing.T, c *Client) *Session {
	t.Helper()
	s, err := c.Stage(context.Background(), spec())
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestFramesThatBreakTheProtocolEndTheSessionOnly(t *testing.T) {
	encoder, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	zeroBomb := encoder.EncodeAll(make([]byte, 8<<20), nil)
	data := func(b Batch) []byte {
		f := b.frame()
		return append(f.body, f.tail...)
	}
	block := []Op{{OpData, model.Run{Offset: 4096, Length: 4096}}}
	one := []model.Digest{{1}}
	for name, p := range map[string][]byte{
		"empty":                        {},
		"unknown type":                 {99},
		"open twice":                   {byte(frameOpen), version, '{', '}'},
		"unknown disk":                 {byte(frameFinish), 2},
		"finished too early":           {byte(frameFinish), 0},
		"look beyond the disk":         encodeLook(1, 0, []Op{{Run: model.Run{Offset: 8192, Length: 4096}}}),
		"look too coarse":              encodeLook(0, MaxGrain+1, []Op{{Run: model.Run{Length: 4096}}}),
		"look between groups":          encodeLook(0, 4, []Op{{Run: model.Run{Offset: 4096, Length: 4096}}}),
		"coarse look too long":         encodeLook(0, MaxGrain, []Op{{Run: model.Run{Length: gib}}}),
		"look too long":                encodeLook(0, 0, []Op{{Run: model.Run{Length: MaxBatch + 4096}}}),
		"data missing":                 data(Batch{UpTo: 8192, Ops: block, Digests: one, RawLen: 4096, Payload: make([]byte, 4095)}),
		"digests missing":              data(Batch{UpTo: 8192, Ops: block, RawLen: 4096}),
		"marked before its own end":    data(Batch{UpTo: 4096, Ops: block, Digests: one, RawLen: 4096, Payload: make([]byte, 4096)}),
		"marked between blocks":        data(Batch{UpTo: 8193, Ops: block, Digests: one, RawLen: 4096, Payload: make([]byte, 4096)}),
		"bomb":                         data(Batch{UpTo: 8192, Ops: block, Digests: one, Encoding: Zstd, RawLen: 4096, Payload: zeroBomb}),
		"compressed to something else": data(Batch{UpTo: 8192, Ops: block, Digests: one, Encoding: Zstd, RawLen: 4096, Payload: encoder.EncodeAll([]byte("short"), nil)}),
		"not compressed":               data(Batch{UpTo: 8192, Ops: block, Digests: one, Encoding: Zstd, RawLen: 4096, Payload: []byte("nonsense")}),
	} {
		t.Run(name, func(t *testing.T) {
			c := serve(t, &sink{}, nil)
			s := session(t, c)
			_ = s.stream.SendMsg(&frame{body: p})
			<-s.Context().Done()
			require.Equal(t, model.InvalidArgument, model.KindOf(s.Err()), "%v", s.Err())
			require.ErrorContains(t, s.Err(), errFrame.Error())
			host, err := c.Ping(context.Background())
			require.NoError(t, err)
			require.Equal(t, model.HostID("host-b"), host)
		})
	}
}

func TestAMessageOverTheBoundIsRefusedByBothEnds(t *testing.T) {
	s := session(t, serve(t, &sink{}, nil))
	require.ErrorContains(t, s.stream.SendMsg(&frame{body: make([]byte, maxMessage+1)}), "larger than max")

	c := serve(t, &sink{}, nil)
	stream, err := c.conn.NewStream(context.Background(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, fullStage, grpc.MaxCallSendMsgSize(64<<20))
	require.NoError(t, err)
	_ = stream.SendMsg(&frame{body: make([]byte, maxMessage+1)})
	require.ErrorContains(t, stream.RecvMsg(&frame{}), "larger than max")
}

// TestABatchArrivesWholeHoweverTheTransportCutsIt also gives the transport its buffers back.
func TestABatchArrivesWholeHoweverTheTransportCutsIt(t *testing.T) {
	payload := make([]byte, MaxBatch)
	for i := range payload {
		payload[i] = byte(i * 7 >> 3)
	}
	b := Batch{UpTo: gib, Ops: []Op{{OpData, model.Run{Offset: 4096, Length: 8192}}, {OpData, model.Run{Offset: 1 << 20, Length: MaxBatch - 8192}}},
		Digests: make([]model.Digest, maxBlocks), RawLen: MaxBatch, Payload: payload}
	sent := b.frame()
	wire := append(sent.body, sent.tail...)
	for _, piece := range []int{100, 4097, poolBuffer, len(wire)} {
		back := 0
		var data mem.BufferSlice
		for rest := wire; len(rest) > 0; {
			n := min(piece, len(rest))
			p := make([]byte, max(n, poolBuffer))
			copy(p, rest[:n])
			p = p[:n]
			data, rest = append(data, mem.NewBuffer(&p, releaser{&frame{done: func() { back++ }}})), rest[n:]
		}
		var f frame
		require.NoError(t, codec{}.Unmarshal(data, &f))
		data.Free()
		var got Batch
		require.NoError(t, decodeBatch(f.body, total(f.parts), disks(spec().Disks), &got))
		require.Equal(t, b.Ops, got.Ops)
		r := receiver{}
		rest := r.cut(f.parts, 8192)
		first := append([]byte(nil), join(r.parts, &r.flat)...)
		require.Empty(t, r.cut(rest, MaxBatch-8192))
		require.Equal(t, payload, append(first, join(r.parts, &r.flat)...))
		f.drop()
		require.Equal(t, len(data), back)
	}
}

func TestABatchGoesForwardOnly(t *testing.T) {
	s := session(t, serve(t, &sink{}, nil))
	b := Batch{UpTo: 8192, Ops: []Op{{OpData, model.Run{Offset: 4096, Length: 4096}}}, Digests: []model.Digest{{1}}, RawLen: 4096, Payload: make([]byte, 4096)}
	require.NoError(t, s.Send(&b))
	_ = s.Send(&b)
	<-s.Context().Done()
	require.ErrorContains(t, s.Err(), "goes back")
}

func TestADeadStandbyIsNoticedWithinSeconds(t *testing.T) {
	never := make(chan struct{})
	k := &sink{digest: func(ctx context.Context) error {
		select {
		case <-never:
		case <-ctx.Done():
		}
		return ctx.Err()
	}}
	mute := serve(t, k, func(s *Server) { s.alive = time.Hour })
	mute.silence = 2
	s := session(t, mute)
	begun := time.Now()
	r, err := s.Look(context.Background(), 0, []model.Run{{Length: 4096}}, make([]model.Digest, 1))
	require.NoError(t, err)
	err = s.Wait(context.Background(), r)
	require.Equal(t, model.LinkDown, model.KindOf(err), "%v", err)
	require.Less(t, time.Since(begun), 5*time.Second)

	busy := serve(t, &sink{stage: func(ctx context.Context) error {
		select {
		case <-time.After(3500 * time.Millisecond):
		case <-ctx.Done():
		}
		return ctx.Err()
	}}, func(s *Server) { s.alive = 100 * time.Millisecond })
	busy.silence = 2
	_, err = busy.Stage(context.Background(), spec())
	require.NoError(t, err, "a busy standby is not a dead one")
}

func TestAnAddressThatAcceptsAndSaysNothingIsLinkDown(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	c, err := Dial(context.Background(), l.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	begun := time.Now()
	_, err = c.Stage(context.Background(), spec())
	require.Equal(t, model.LinkDown, model.KindOf(err), "%v", err)
	require.Less(t, time.Since(begun), 12*time.Second)
	_, err = Dial(context.Background(), "no port")
	require.Equal(t, model.InvalidArgument, model.KindOf(err))
}

func TestAFailureSurvivesTheWire(t *testing.T) {
	f := model.Fail(model.TargetFull, errors.New("no space left on device"), "writing vda").WithTry("free space")
	f.RetryAfter = 3 * time.Second
	got := failureFrom(failureTrailer(f, model.VMRef{Name: "db1"}, "host-b"))
	require.Equal(t, f.WithVM("db1").WithHost("host-b").Error(), got.Error())
	require.Equal(t, f.Kind, got.Kind)
	require.Equal(t, f.RetryAfter, got.RetryAfter)
	long := failureFrom(failureTrailer(errors.New(strings.Repeat("x", 1<<20)), model.VMRef{}, "host-b"))
	require.Equal(t, model.Internal, long.Kind)
	require.Less(t, len(long.Error()), 4<<10)
}

func FuzzFrames(f *testing.F) {
	d := disks(spec().Disks)
	open, _ := encodeOpen(spec())
	batch := Batch{Disk: 1, UpTo: 4608, Ops: []Op{{OpData, model.Run{Length: 4096}}, {OpClear, model.Run{Offset: 4096, Length: 512}}},
		Digests: []model.Digest{{1}}, RawLen: 4096, Payload: make([]byte, 4096)}
	whole := batch.frame()
	for _, p := range [][]byte{
		open, append(whole.body, whole.tail...), encodeLook(0, 0, []Op{{Run: model.Run{Offset: 8192, Length: 8192}}}),
		opened{Host: "host-b", Seed: 1, Acked: []int64{4096, 0}}.encode(), acked{Disk: 1, UpTo: 4096, Cleared: 9}.encode(),
		encodeDisk(frameFinish, 1), encodeDigests(make([]model.Digest, 3)), binary.AppendUvarint([]byte{byte(frameBatch), 0, 1}, 1<<63),
	} {
		f.Add(p)
	}
	inflater, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxBatch), zstd.WithDecodeAllCapLimit(true))
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, p []byte) {
		if s, err := decodeOpen(p); err == nil && checkSpec(s) == nil {
			again, err := encodeOpen(s)
			require.NoError(t, err)
			require.LessOrEqual(t, len(again), 1<<20)
		}
		if l, err := decodeLook(p, d); err == nil {
			require.LessOrEqual(t, l.Digests, maxBlocks)
			require.Equal(t, encodeLook(l.Disk, l.Grain, l.Runs)[:3], p[:3])
		}
		var j job
		if len(p) > maxMessage {
			return
		}
		require.NoError(t, codec{}.Unmarshal(mem.BufferSlice{mem.SliceBuffer(p[:len(p)/3]), mem.SliceBuffer(p[len(p)/3:])}, &j.frame))
		if decodeBatch(j.frame.body, total(j.frame.parts), d, &j.batch) == nil {
			last := int64(0)
			for _, o := range j.batch.Ops {
				require.GreaterOrEqual(t, o.Offset, last)
				require.Positive(t, o.Length)
				last = o.Offset + o.Length
				require.LessOrEqual(t, last, d.size(j.batch.Disk))
			}
			if j.decode(inflater) == nil {
				require.Equal(t, j.batch.RawLen, total(j.plain))
			}
		}
		_, _ = decodeOpened(p, d)
		_, _ = decodeAcked(p, d)
		_, _ = decodeDisk(frameFinish, p, d)
		_, _ = decodePong(p)
		_ = decodeDigests(p, make([]model.Digest, 3))
		_ = failureFrom(map[string][]string{failureKey: {string(p)}})
	})
}
