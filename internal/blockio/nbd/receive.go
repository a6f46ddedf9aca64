package nbd

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"time"
)

// receive is the one goroutine that reads the connection. When it ends, every request
// that is still owed an answer fails with the cause of the end.
func (c *Client) receive() {
	var err error
	for err == nil {
		err = c.reply()
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // the server hung up: only we may end a session
	}
	c.fail(err)

	c.mu.Lock()
	owed := c.pending
	c.pending, c.busy = nil, nil
	err = c.err
	c.mu.Unlock()
	for _, pd := range owed {
		pd.err = err
		close(pd.done)
	}
	close(c.stopped)
}

// resume clears the read deadline with which abandon wakes the receiver.
func (c *Client) resume() {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.conn.SetReadDeadline(time.Time{})
}

// reply reads one reply message.
func (c *Client) reply() error {
	var h [structuredHdrSize]byte
	if err := c.in.full(h[:4]); err != nil {
		return err
	}
	switch magic := binary.BigEndian.Uint32(h[:]); magic {
	case magicSimpleReply:
		if err := c.in.full(h[4:simpleHdrSize]); err != nil {
			return err
		}
		return c.simple(binary.BigEndian.Uint32(h[4:]), binary.BigEndian.Uint64(h[8:]))
	case magicStructuredReply:
		if err := c.in.full(h[4:]); err != nil {
			return err
		}
		if !c.info.Structured {
			return breach("structured reply that was not negotiated")
		}
		return c.chunk(chunk{
			flags:  binary.BigEndian.Uint16(h[4:]),
			typ:    binary.BigEndian.Uint16(h[6:]),
			handle: binary.BigEndian.Uint64(h[8:]),
			length: int64(binary.BigEndian.Uint32(h[16:])),
		})
	default:
		return breach("bad reply magic %#x", magic)
	}
}

// simple handles section "Simple reply message".
func (c *Client) simple(errno uint32, handle uint64) error {
	pd, err := c.lookup(handle)
	if err != nil {
		return err
	}
	if pd.cmd == cmdBlockStatus && errno == 0 || pd.cmd == cmdRead && c.info.Structured {
		return breach("simple reply to %s", commandName(pd.cmd))
	}
	if errno != 0 {
		pd.refuse(errno, "")
	} else if pd.cmd == cmdRead {
		if err := c.into(pd, 0, pd.length); err != nil {
			return err
		}
	}
	c.finish(handle, pd)
	return nil
}

// chunk is the header of section "Structured reply chunk message".
type chunk struct {
	flags, typ uint16
	handle     uint64
	length     int64 // of the payload, in bytes
}

func (c *Client) chunk(ch chunk) error {
	pd, err := c.lookup(ch.handle)
	if err != nil {
		return err
	}
	switch {
	case ch.typ&replyErrorBit != 0:
		err = c.errorChunk(pd, ch)
	case ch.typ == replyNone:
		if ch.length != 0 || ch.flags&replyFlagDone == 0 {
			err = breach("NONE chunk with payload or without DONE")
		}
	case ch.typ == replyOffsetData && pd.cmd == cmdRead:
		err = c.dataChunk(pd, ch)
	case ch.typ == replyOffsetHole && pd.cmd == cmdRead:
		err = c.holeChunk(pd, ch)
	case ch.typ == replyBlockStatus && pd.cmd == cmdBlockStatus:
		err = c.statusChunk(pd, ch)
	default:
		err = breach("chunk of type %d in the reply to %s", ch.typ, commandName(pd.cmd))
	}
	if err != nil || ch.flags&replyFlagDone == 0 {
		return err
	}
	if pd.err == nil {
		switch {
		case pd.cmd == cmdRead && !pd.cover.complete(pd.length):
			return breach("read reply with bytes missing")
		case pd.cmd == cmdBlockStatus && pd.descs == nil:
			return breach("block status reply without the context asked for")
		}
	}
	c.finish(ch.handle, pd)
	return nil
}

// dataChunk is NBD_REPLY_TYPE_OFFSET_DATA.
func (c *Client) dataChunk(pd *pending, ch chunk) error {
	var p [8]byte
	if ch.length < 9 {
		return breach("data chunk of %d bytes", ch.length)
	}
	if err := c.in.full(p[:]); err != nil {
		return err
	}
	at, err := pd.place(binary.BigEndian.Uint64(p[:]), ch.length-8)
	if err != nil {
		return err
	}
	return c.into(pd, at, ch.length-8)
}

// holeChunk is NBD_REPLY_TYPE_OFFSET_HOLE.
func (c *Client) holeChunk(pd *pending, ch chunk) error {
	var p [12]byte
	if ch.length != int64(len(p)) {
		return breach("hole chunk of %d bytes", ch.length)
	}
	if err := c.in.full(p[:]); err != nil {
		return err
	}
	length := int64(binary.BigEndian.Uint32(p[8:]))
	at, err := pd.place(binary.BigEndian.Uint64(p[:]), length)
	if err != nil {
		return err
	}
	clear(c.acquire(pd, at, length))
	c.release(pd)
	return nil
}

// errorChunk is NBD_REPLY_TYPE_ERROR, _ERROR_OFFSET, and any error chunk to come.
func (c *Client) errorChunk(pd *pending, ch chunk) error {
	if ch.length < 6 || ch.length > maxErrorChunk {
		return breach("error chunk of %d bytes", ch.length)
	}
	if pd.errors++; pd.errors > maxErrorChunks {
		return breach("more than %d error chunks in a reply", maxErrorChunks)
	}
	p := make([]byte, ch.length)
	if err := c.in.full(p); err != nil {
		return err
	}
	errno, msgLen := binary.BigEndian.Uint32(p), int(binary.BigEndian.Uint16(p[4:]))
	tail := 6
	if ch.typ == replyErrorOffset {
		tail = 14
	}
	if errno == 0 || msgLen > len(p)-tail {
		return breach("malformed error chunk")
	}
	pd.refuse(errno, clip(p[6:6+msgLen]))
	return nil
}

// place checks that a content chunk lies in the request and overlaps no earlier one,
// and gives its place in the buffer.
func (pd *pending) place(off uint64, length int64) (int64, error) {
	if length <= 0 || off < uint64(pd.off) || off-uint64(pd.off) > uint64(pd.length) ||
		length > pd.length-int64(off-uint64(pd.off)) {
		return 0, breach("chunk of %d bytes at %d outside the read of %d bytes at %d", length, off, pd.length, pd.off)
	}
	at := int64(off) - pd.off
	if !pd.cover.add(at, at+length) {
		return 0, breach("chunk of %d bytes at %d overlaps another, or there are too many", length, off)
	}
	return at, nil
}

// refuse keeps the server's first error.
func (pd *pending) refuse(errno uint32, message string) {
	if pd.err == nil {
		pd.err = &ServerError{
			Command: commandName(pd.cmd), Offset: pd.off, Length: pd.length,
			Errno: errnoOf(errno), Message: message,
		}
	}
}

// lookup finds the request a reply belongs to.
func (c *Client) lookup(handle uint64) (*pending, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pd := c.pending[handle]
	if pd == nil {
		return nil, breach("reply to a request that was not made: handle %d", handle)
	}
	return pd, nil
}

// finish hands the answer over.
func (c *Client) finish(handle uint64, pd *pending) {
	c.mu.Lock()
	delete(c.pending, handle)
	if pd.gone {
		c.abandoned--
	}
	close(pd.done)
	c.mu.Unlock()
}

// acquire lends the receiver [at, at+length) of the caller's buffer until release; nil
// if the caller has given up.
func (c *Client) acquire(pd *pending, at, length int64) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if pd.gone {
		return nil
	}
	c.busy = pd
	return pd.buf[at : at+length]
}

// release gives the buffer back.
func (c *Client) release(pd *pending) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy != pd {
		return
	}
	c.busy = nil
	if pd.gone {
		pd.detach()
	}
}

// into reads the next length bytes of the connection into the caller's buffer from at
// on, or to nowhere from the moment the caller gives up.
func (c *Client) into(pd *pending, at, length int64) error {
	dst := c.acquire(pd, at, length)
	for len(dst) > 0 {
		n, err := c.in.some(dst)
		dst, length = dst[n:], length-int64(n)
		if err == nil {
			continue
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err // still busy: receive ends and says so by done
		}
		c.resume()
		if c.isGone(pd) {
			dst = nil
		}
	}
	c.release(pd)
	return c.in.discard(length)
}

func (c *Client) isGone(pd *pending) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return pd.gone
}
