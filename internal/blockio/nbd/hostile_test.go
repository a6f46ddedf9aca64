package nbd

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"understudy/internal/blockio"
	"understudy/internal/blockio/blockiotest"
)

// TestBreaches: each breach of the protocol ends the connection with a ProtocolError.
func TestBreaches(t *testing.T) {
	data := func(off uint64, n int) [][]byte { return [][]byte{u64(off), make([]byte, n)} }
	read := func(c *Client) error { return c.ReadAt(context.Background(), make([]byte, 4096), 8192) }
	write := func(c *Client) error { return c.WriteZeroes(context.Background(), 8192, 4096) }
	status := func(c *Client) error {
		return c.Map(context.Background(), blockio.Allocation, 8192, 4096, func(blockio.Extent) error { return nil })
	}
	for _, c := range []struct {
		name  string
		call  func(*Client) error
		reply func(h uint64) []byte
	}{
		{"bad magic", read, func(uint64) []byte { return u32(1234) }},
		{"unknown handle", read, func(h uint64) []byte { return chunkOf(true, replyNone, h+1) }},
		{"simple reply to read", read, func(h uint64) []byte { return simpleOf(5, h) }},
		{"simple reply to block status", status, func(h uint64) []byte { return simpleOf(0, h) }},
		{"nothing read", read, func(h uint64) []byte { return chunkOf(true, replyNone, h) }},
		{"less read", read, func(h uint64) []byte { return chunkOf(true, replyOffsetData, h, data(8192, 4095)...) }},
		{"empty data", read, func(h uint64) []byte { return chunkOf(false, replyOffsetData, h, u64(8192)) }},
		{"data before", read, func(h uint64) []byte { return chunkOf(false, replyOffsetData, h, data(8191, 10)...) }},
		{"data after", read, func(h uint64) []byte { return chunkOf(false, replyOffsetData, h, data(8192+4090, 7)...) }},
		{"data far off", read, func(h uint64) []byte { return chunkOf(false, replyOffsetData, h, data(1<<63, 7)...) }},
		{"data far below", read, func(h uint64) []byte { return chunkOf(false, replyOffsetData, h, data(0, 7)...) }},
		{"too much data", read, func(h uint64) []byte {
			return join(u32(magicStructuredReply), u16(0), u16(replyOffsetData), u64(h), u32(0xffffffff), u64(8192))
		}},
		{"overlap", read, func(h uint64) []byte {
			return join(chunkOf(false, replyOffsetData, h, data(8192, 10)...), chunkOf(false, replyOffsetHole, h, u64(8201), u32(10)))
		}},
		{"empty hole", read, func(h uint64) []byte { return chunkOf(false, replyOffsetHole, h, u64(8192), u32(0)) }},
		{"long hole", read, func(h uint64) []byte { return chunkOf(false, replyOffsetHole, h, u64(8192), u32(4097)) }},
		{"malformed hole", read, func(h uint64) []byte { return chunkOf(false, replyOffsetHole, h, u64(8192)) }},
		{"data for a write", write, func(h uint64) []byte { return chunkOf(false, replyOffsetData, h, data(8192, 10)...) }},
		{"NONE without DONE", write, func(h uint64) []byte { return chunkOf(false, replyNone, h) }},
		{"NONE with payload", write, func(h uint64) []byte { return chunkOf(true, replyNone, h, u32(1)) }},
		{"unknown type", write, func(h uint64) []byte { return chunkOf(true, 99, h) }},
		{"short error", write, func(h uint64) []byte { return chunkOf(true, replyErrorBit+1, h, u32(5)) }},
		{"error 0", write, func(h uint64) []byte { return chunkOf(true, replyErrorBit+1, h, u32(0), u16(0)) }},
		{"error with long message", write, func(h uint64) []byte { return chunkOf(true, replyErrorBit+1, h, u32(5), u16(9), u32(1)) }},
		{"error of 4 GiB", write, func(h uint64) []byte {
			return join(u32(magicStructuredReply), u16(1), u16(replyErrorBit+1), u64(h), u32(0xffffffff))
		}},
		{"errors for ever", write, func(h uint64) []byte {
			return bytes.Repeat(chunkOf(false, replyErrorBit+1, h, u32(5), u16(0)), maxErrorChunks+1)
		}},
		{"status for a read", read, func(h uint64) []byte { return chunkOf(true, replyBlockStatus, h, u32(1), u32(4096), u32(0)) }},
		{"status of nothing", status, func(h uint64) []byte { return chunkOf(true, replyBlockStatus, h, u32(1)) }},
		{"status cut", status, func(h uint64) []byte { return chunkOf(true, replyBlockStatus, h, u32(1), u32(4096), u16(0)) }},
		{"status of length 0", status, func(h uint64) []byte { return chunkOf(true, replyBlockStatus, h, u32(1), u32(0), u32(0)) }},
		{"status of unknown context", status, func(h uint64) []byte { return chunkOf(true, replyBlockStatus, h, u32(7), u32(1), u32(0)) }},
		{"status of other context only", status, func(h uint64) []byte { return chunkOf(true, replyBlockStatus, h, u32(2), u32(1), u32(0)) }},
		{"status twice", status, func(h uint64) []byte {
			return bytes.Repeat(chunkOf(false, replyBlockStatus, h, u32(1), u32(1), u32(0)), 2)
		}},
		{"status of 4 GiB", status, func(h uint64) []byte {
			return join(u32(magicStructuredReply), u16(1), u16(replyBlockStatus), u64(h), u32(0xfffffffc))
		}},
		{"done without status", status, func(h uint64) []byte { return chunkOf(true, replyNone, h) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			blockiotest.NoLeak(t)
			client, server := transmission(t, testInfo())
			result := make(chan error, 1)
			go func() { result <- c.call(client) }()
			server.send(c.reply(server.request().handle))
			var breach *ProtocolError
			err := <-result
			require.ErrorIs(t, err, blockio.ErrDisconnected)
			require.ErrorAs(t, err, &breach)
		})
	}
}

// TestOddButRight: replies that are unusual and allowed.
func TestOddButRight(t *testing.T) {
	blockiotest.NoLeak(t)
	ctx := context.Background()
	c, s := transmission(t, testInfo())
	result := make(chan error, 1)

	p := bytes.Repeat([]byte{0xee}, 16)
	go func() { result <- c.ReadAt(ctx, p, 100) }()
	h := s.request().handle
	s.send(chunkOf(false, replyOffsetData, h, u64(112), []byte("tail")), // out of order
		chunkOf(false, replyOffsetHole, h, u64(104), u32(8)),
		chunkOf(false, replyOffsetData, h, u64(100), []byte("head")), chunkOf(true, replyNone, h))
	require.NoError(t, <-result)
	require.Equal(t, "head\x00\x00\x00\x00\x00\x00\x00\x00tail", string(p))

	go func() { result <- c.ReadAt(ctx, p, 100) }() // data, then an error at an offset
	h = s.request().handle
	s.send(chunkOf(false, replyOffsetData, h, u64(100), make([]byte, 16)),
		chunkOf(false, replyErrorOffset, h, u32(28), u16(3), []byte("ow!"), u64(101)),
		chunkOf(true, replyErrorBit+77, h, u32(9999), u16(0), make([]byte, 30)))
	err := <-result
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.ErrorContains(t, err, "ow!")

	go func() { result <- c.Flush(ctx) }()
	s.send(simpleOf(9999, s.request().handle)) // an unknown errno is EINVAL
	require.ErrorIs(t, <-result, syscall.EINVAL)

	var got []blockio.Extent // an answer in small pieces, both contexts, the last too long
	go func() {
		result <- c.Map(ctx, blockio.DirtyBitmap, 100, 50, func(e blockio.Extent) error {
			got = append(got, e)
			return nil
		})
	}()
	r := s.request()
	require.Equal(t, request{cmdBlockStatus, r.handle, 100, 50}, r)
	s.send(chunkOf(false, replyBlockStatus, r.handle, u32(2), u32(10), u32(1), u32(10), u32(1)),
		chunkOf(true, replyBlockStatus, r.handle, u32(1), u32(50), u32(0)))
	r = s.request()
	require.Equal(t, request{cmdBlockStatus, r.handle, 120, 30}, r)
	s.send(chunkOf(false, replyBlockStatus, r.handle, u32(1), u32(7), u32(0)),
		chunkOf(true, replyBlockStatus, r.handle, u32(2), u32(5), u32(1), u32(4000), u32(0)))
	require.NoError(t, <-result)
	require.Equal(t, []blockio.Extent{{Offset: 100, Length: 25, Kind: blockio.Dirty}, {Offset: 125, Length: 25, Kind: blockio.Clean}}, got)
}

// TestCancelInPayload: the server stalls in the middle of a payload; the cancelled call
// returns all the same, its buffer is left alone from then on, and the connection lives.
func TestCancelInPayload(t *testing.T) {
	blockiotest.NoLeak(t)
	c, s := transmission(t, testInfo())
	ctx, cancel := context.WithCancel(context.Background())
	p := make([]byte, 1<<20)
	result := make(chan error, 1)
	go func() { result <- c.ReadAt(ctx, p, 0) }()
	h := s.request().handle
	full := chunkOf(true, replyOffsetData, h, u64(0), bytes.Repeat([]byte{1}, len(p)))
	s.send(full[:300<<10])
	time.Sleep(30 * time.Millisecond)
	select {
	case err := <-result:
		t.Fatal("returned early:", err)
	default:
	}
	cancel()
	require.ErrorIs(t, <-result, context.Canceled)
	for i := range p {
		p[i] = 2
	}
	go s.send(full[300<<10:])
	q := make([]byte, 3)
	go func() { result <- c.ReadAt(context.Background(), q, 7) }()
	s.send(chunkOf(true, replyOffsetData, s.request().handle, u64(7), []byte("abc")))
	require.NoError(t, <-result)
	require.Equal(t, "abc", string(q))
	require.Equal(t, len(p), bytes.Count(p, []byte{2}))
}

// TestCancelStress: cancelling at random moments never lets a late answer into a
// reused buffer, and never breaks the connection. Meant for the race detector.
func TestCancelStress(t *testing.T) {
	blockiotest.NoLeak(t)
	c, s := transmission(t, testInfo())
	served := make(chan struct{})
	go func() { // answers every read with bytes of 1, in two chunks
		defer close(served)
		var hdr [requestHdrSize]byte
		for {
			if _, err := readFull(s.conn, hdr[:]); err != nil || hdr[7] == cmdDisc {
				return
			}
			h, off := be64(hdr[8:]), be64(hdr[16:])
			n := int(be32(hdr[24:]))
			ones := bytes.Repeat([]byte{1}, n)
			s.send(chunkOf(false, replyOffsetData, h, u64(off), ones[:n/2]),
				chunkOf(true, replyOffsetData, h, u64(off+uint64(n/2)), ones[n/2:]))
		}
	}()
	done := make(chan int)
	for w := range 8 {
		go func() {
			cancelled, owed := 0, false
			rnd := rand.New(rand.NewPCG(uint64(w), 2))
			p := make([]byte, 200<<10)
			for range 150 {
				limit := time.Duration(rnd.IntN(5000)) * time.Microsecond
				if owed { // more than a slow machine can answer would be the server's fault, and end the connection
					limit = time.Minute
				}
				ctx, cancel := context.WithTimeout(context.Background(), limit)
				clear(p)
				err := c.ReadAt(ctx, p, 0)
				cancel()
				switch {
				case err == nil && bytes.Count(p, []byte{1}) != len(p):
					t.Error("bytes missing")
				case err != nil && !errors.Is(err, context.DeadlineExceeded):
					t.Error(err)
				case err != nil:
					cancelled++
				}
				owed = err != nil
			}
			done <- cancelled
		}()
	}
	total := 0
	for range 8 {
		total += <-done
	}
	t.Logf("%d of 1200 reads were cancelled", total)
	require.NoError(t, c.Err())
	require.NoError(t, c.Close())
	<-served
}

// TestCancelInSend: a server that no longer reads. The cancelled writer leaves after
// the grace, and everybody learns that the connection is gone.
func TestCancelInSend(t *testing.T) {
	blockiotest.NoLeak(t)
	c, _ := transmission(t, testInfo())
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 2)
	go func() { result <- c.WriteAt(ctx, make([]byte, 16<<20), 0) }()
	time.Sleep(20 * time.Millisecond)
	waiting, stop := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer stop()
	require.ErrorIs(t, c.Flush(waiting), context.DeadlineExceeded) // waits for its turn to send
	go func() { result <- c.Flush(context.Background()) }()
	time.Sleep(20 * time.Millisecond)
	start := time.Now()
	cancel()
	errs := []error{<-result, <-result}
	require.Less(t, time.Since(start), sendGrace+3*time.Second)
	require.True(t, slices.ContainsFunc(errs, func(err error) bool { return errors.Is(err, context.Canceled) }), "%v", errs)
	require.True(t, slices.ContainsFunc(errs, func(err error) bool { return errors.Is(err, blockio.ErrDisconnected) }), "%v", errs)
}

// TestOwedAnswers: a server that never answers cannot make cancelled calls pile up.
func TestOwedAnswers(t *testing.T) {
	blockiotest.NoLeak(t)
	c, s := transmission(t, testInfo())
	for range maxAbandoned + 1 {
		require.NoError(t, c.Err())
		ctx, cancel := context.WithCancel(context.Background())
		result := make(chan error, 1)
		go func() { result <- c.ReadAt(ctx, make([]byte, 1), 0) }()
		s.request()
		cancel()
		require.ErrorIs(t, <-result, context.Canceled)
	}
	require.ErrorIs(t, c.Err(), blockio.ErrDisconnected)
}

// TestHandshakeStalls: a server that sends nothing, or too slowly, is left in time.
func TestHandshakeStalls(t *testing.T) {
	blockiotest.NoLeak(t)
	for _, c := range []struct {
		name string
		ctx  time.Duration
		opts Options
		want error
	}{
		{"own limit", time.Hour, Options{HandshakeTimeout: 50 * time.Millisecond}, blockio.ErrDisconnected},
		{"context", 50 * time.Millisecond, Options{}, context.DeadlineExceeded},
	} {
		t.Run(c.name, func(t *testing.T) {
			mine, theirs := net.Pipe()
			defer theirs.Close()
			go func() {
				for _, b := range join(u64(magicInit), u64(magicOption), u16(3)) {
					time.Sleep(10 * time.Millisecond)
					if _, err := theirs.Write([]byte{b}); err != nil {
						return
					}
				}
			}()
			ctx, cancel := context.WithTimeout(context.Background(), c.ctx)
			defer cancel()
			start := time.Now()
			_, err := New(ctx, mine, c.opts)
			require.ErrorIs(t, err, c.want)
			require.Less(t, time.Since(start), 2*time.Second)
		})
	}
}

// TestCoverage: against a set of bytes.
func TestCoverage(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		const length = 40
		var c coverage
		var model [length]bool
		for range rapid.IntRange(0, 30).Draw(rt, "chunks") {
			from := rapid.IntRange(0, length-1).Draw(rt, "from")
			to := rapid.IntRange(from+1, length).Draw(rt, "to")
			free := !slices.Contains(model[from:to], true)
			require.Equal(rt, free, c.add(int64(from), int64(to)))
			if free {
				for i := from; i < to; i++ {
					model[i] = true
				}
			}
			require.Equal(rt, !slices.Contains(model[:], false), c.complete(length))
		}
	})
	var empty coverage
	require.True(t, empty.complete(0))
	var many coverage
	for i := range int64(maxFragments) {
		require.True(t, many.add(2*i, 2*i+1))
	}
	require.False(t, many.add(1<<40, 1<<40+1))
}
