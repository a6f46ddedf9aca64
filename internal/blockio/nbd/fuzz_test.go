package nbd

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"understudy/internal/blockio"
)

// scripted is a server whose every byte is known beforehand. Reads wait until after
// requests bytes were sent to it, then give script, then EOF.
type scripted struct {
	net.Conn // nil: what is not overridden must not be called
	mu       sync.Mutex
	script   []byte
	after    int // bytes the client must send first
	sent     int
	open     chan struct{} // closed when after bytes were sent, or at Close
	once     sync.Once
}

func newScripted(script []byte, after int) *scripted {
	s := &scripted{script: script, after: after, open: make(chan struct{})}
	if after == 0 {
		s.once.Do(func() { close(s.open) })
	}
	return s
}

func (s *scripted) Read(p []byte) (int, error) {
	<-s.open
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.script) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.script)
	s.script = s.script[n:]
	return n, nil
}

func (s *scripted) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent += len(p)
	if s.sent >= s.after {
		s.once.Do(func() { close(s.open) })
	}
	return len(p), nil
}

func (s *scripted) Close() error {
	s.once.Do(func() { close(s.open) })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script = nil
	return nil
}

func (s *scripted) SetDeadline(time.Time) error      { return nil }
func (s *scripted) SetReadDeadline(time.Time) error  { return nil }
func (s *scripted) SetWriteDeadline(time.Time) error { return nil }

// waitSent waits until the client has sent n bytes.
func (s *scripted) waitSent(n int) {
	for {
		s.mu.Lock()
		sent := s.sent
		s.mu.Unlock()
		if sent >= n {
			return
		}
		time.Sleep(10 * time.Microsecond)
	}
}

// The requests that FuzzReplyStream has in flight, by handle: 1 reads 64 bytes at 4096,
// 2 writes zeroes, 3 flushes, 4 maps [4096, 1 MiB) by allocation, 5 the same by bitmap.
const fuzzRequests = 5

// FuzzReplyStream: arbitrary bytes after the handshake, with requests of every kind in
// flight, one of them being cancelled. Nothing panics, every call returns, no byte
// outside or after a read is touched, and extents are well formed.
func FuzzReplyStream(f *testing.F) {
	read := join(u64(4096), bytes.Repeat([]byte{3}, 64))
	for _, script := range [][]byte{
		{},
		chunkOf(true, replyOffsetData, 1, read),
		join(chunkOf(false, replyOffsetHole, 1, u64(4096+32), u32(32)), chunkOf(true, replyOffsetData, 1, u64(4096), make([]byte, 32)),
			simpleOf(0, 2), simpleOf(28, 3),
			chunkOf(true, replyBlockStatus, 4, u32(1), u32(4096), u32(3), u32(1<<20), u32(0)),
			chunkOf(false, replyBlockStatus, 5, u32(2), u32(1<<19), u32(1)), chunkOf(true, replyBlockStatus, 5, u32(1), u32(1<<19), u32(1)),
			chunkOf(true, replyBlockStatus, 6, u32(2), u32(1<<20), u32(0))),
		join(chunkOf(false, replyErrorOffset, 1, u32(5), u16(2), []byte("no"), u64(4100)), chunkOf(true, replyNone, 1)),
		join(chunkOf(true, replyErrorBit+1, 2, u32(1), u16(0)), chunkOf(true, replyNone, 3)),
		join(u32(magicStructuredReply), u16(1), u16(replyOffsetData), u64(1), u32(0xffffffff)),
		join(u32(magicStructuredReply), u16(1), u16(replyBlockStatus), u64(4), u32(0xfffffffc), u32(1)),
	} {
		for mode := range byte(4) {
			f.Add(script, mode)
		}
	}
	f.Fuzz(func(t *testing.T, script []byte, mode byte) {
		conn := newScripted(script, fuzzRequests*requestHdrSize)
		info := testInfo()
		info.Structured = mode&1 == 0
		c := start(conn, newStream(conn), info)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		const guard = 32
		buf := bytes.Repeat([]byte{0xee}, 64+2*guard)
		var wg sync.WaitGroup
		for i, call := range []func(context.Context) error{
			func(ctx context.Context) error {
				err := c.ReadAt(ctx, buf[guard:guard+64], 4096)
				if err != nil {
					copy(buf, bytes.Repeat([]byte{0xee}, len(buf))) // ours again: nothing may change it
				}
				return err
			},
			func(ctx context.Context) error { return c.WriteZeroes(ctx, 0, 4096) },
			c.Flush,
			func(ctx context.Context) error { return fuzzMap(t, c, ctx, blockio.Allocation) },
			func(ctx context.Context) error { return fuzzMap(t, c, ctx, blockio.DirtyBitmap) },
		} {
			wg.Go(func() { _ = call(ctx) })
			conn.waitSent((i + 1) * requestHdrSize)
		}
		if mode&2 != 0 {
			cancel()
		}
		wg.Wait()
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		for i, b := range buf {
			if (i < guard || i >= guard+64) && b != 0xee {
				t.Fatalf("byte %d outside the read was written", i-guard)
			}
		}
	})
}

func fuzzMap(t *testing.T, c *Client, ctx context.Context, m blockio.Map) error {
	next, end, last := int64(4096), int64(1<<20), blockio.Kind(0)
	err := c.Map(ctx, m, next, end-next, func(e blockio.Extent) error {
		if e.Offset != next || e.Length <= 0 || e.End() > end || e.Kind == last {
			t.Errorf("bad extent %+v after %d", e, next)
		}
		next, last = e.End(), e.Kind
		return nil
	})
	if err == nil && next != end {
		t.Errorf("map ends at %d", next)
	}
	return err
}

// FuzzHandshake: arbitrary bytes as a handshake. Nothing panics or hangs, and what is
// accepted is sane.
func FuzzHandshake(f *testing.F) {
	greeting := join(u64(magicInit), u64(magicOption), u16(3))
	reply := func(opt, typ int, payload ...[]byte) []byte {
		p := join(payload...)
		return join(u64(magicOptReply), u32(opt), u32(typ), u32(len(p)), p)
	}
	export := reply(optGo, repInfo, u16(infoExport), u64(1<<30), u16(0x8f))
	good := join(greeting, reply(optStructuredReply, repAck),
		reply(optSetMetaContext, repMetaContext, u32(1), []byte(contextAllocation)),
		reply(optSetMetaContext, repMetaContext, u32(2), []byte(contextDirtyPrefix+"b")), reply(optSetMetaContext, repAck),
		export, reply(optGo, repInfo, u16(infoBlockSize), u32(512), u32(4096), u32(1<<20)), reply(optGo, repAck))
	for _, script := range [][]byte{
		{}, greeting, good, good[:len(good)-1],
		join(greeting, reply(optStructuredReply, repErrUnsup, []byte("old")), export, reply(optGo, repAck)),
		join(greeting, reply(optStructuredReply, repAck), reply(optSetMetaContext, repErrPolicy), reply(optGo, repErrUnknown, []byte("none"))),
		join(greeting, reply(optStructuredReply, repAck), reply(optListMetaContext, repMetaContext, u32(0), []byte("base:allocation")), reply(optListMetaContext, repAck)),
		join(greeting, u64(magicOptReply), u32(optStructuredReply), u32(repAck), u32(0xffffffff)),
	} {
		f.Add(script, "", "b")
		f.Add(script, "disk", "")
	}
	f.Fuzz(func(t *testing.T, script []byte, exportName, bitmap string) {
		opts := Options{Export: exportName, Bitmap: bitmap}
		c, err := New(context.Background(), newScripted(script, 0), opts)
		if err == nil {
			i := c.Info()
			if i.Size < 0 || i.Size > maxExportSize || i.MinBlock == 0 || i.MinBlock&(i.MinBlock-1) != 0 || i.MaxPayload < i.MinBlock ||
				i.MaxPayload > defaultMaxPayload || i.MaxPayload%i.MinBlock != 0 || i.Size%int64(i.MinBlock) != 0 || i.Dirty != (bitmap != "") {
				t.Errorf("accepted %+v", i)
			}
			_ = c.ReadAt(context.Background(), make([]byte, 1), 0)
			_ = c.Map(context.Background(), blockio.Allocation, 0, min(i.Size, 1<<40), func(blockio.Extent) error { return nil })
			_ = c.Close()
		}
		conn := newScripted(script, 0)
		n := negotiator{conn: conn, in: newStream(conn), opts: opts}
		_ = handshake(context.Background(), conn, opts, func() error { _, err := n.list([]string{"base:"}); return err })
	})
}
