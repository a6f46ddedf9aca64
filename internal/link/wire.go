package link

import (
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/grpc/mem"

	"understudy/internal/model"
)

// Bounds of what one frame carries.
const (
	// MaxBatch is the most data of one Batch, before compression, and of the runs of one Look.
	MaxBatch = 1 << 20
	// MaxOps bounds the operations of one Batch and the runs of one Look.
	MaxOps = 1024

	maxBlocks  = MaxBatch / model.BlockSize
	maxMessage = MaxBatch + 64<<10
	version    = 1
)

// errFrame: the peer sent something that is not a frame of this protocol, or is out of its bounds.
var errFrame = errors.New("link: malformed frame")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errFrame, fmt.Sprintf(format, args...))
}

// frameType is the first byte of each frame.
type frameType byte

const (
	frameOpen frameType = iota + 1
	frameOpened
	frameLook
	frameDigests
	frameBatch
	frameAcked
	frameFinish
	frameFinished
	frameAlive
	framePing
	framePong
)

// frame is one message. tail follows body on the wire without being copied; done is called when the transport no longer
// needs it.
type frame struct {
	body []byte
	tail []byte
	done func()
}

func (f *frame) kind() frameType {
	if len(f.body) == 0 {
		return 0
	}
	return frameType(f.body[0])
}

// len is the number of bytes of the message on the wire, gRPC's own prefix included.
func (f *frame) len() int64 { return int64(len(f.body) + len(f.tail) + 5) }

// codec gives gRPC the bytes of a frame as they are. What they mean is decoded apart, with bounds.
type codec struct{}

func (codec) Name() string { return "understudy" }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(*frame)
	if !ok {
		return nil, fmt.Errorf("link: cannot send a %T", v)
	}
	out := mem.BufferSlice{mem.SliceBuffer(f.body)}
	switch {
	case len(f.tail) == 0:
		f.release()
	case mem.IsBelowBufferPoolingThreshold(cap(f.tail)):
		// gRPC would never say when it is done with one so small.
		out = append(out, mem.SliceBuffer(append([]byte(nil), f.tail...)))
		f.release()
	default:
		out = append(out, mem.NewBuffer(&f.tail, releaser{f}))
	}
	return out, nil
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*frame)
	if !ok {
		return fmt.Errorf("link: cannot receive into a %T", v)
	}
	n := data.Len()
	if n > maxMessage {
		return malformed("%d bytes", n)
	}
	if cap(f.body) < n {
		f.body = make([]byte, n)
	}
	f.body = f.body[:n]
	data.CopyTo(f.body)
	return nil
}

func (f *frame) release() {
	if f.done != nil {
		f.done()
		f.done = nil
	}
}

// releaser is the pool that gRPC hands the tail back to.
type releaser struct{ f *frame }

func (releaser) Get(n int) *[]byte { b := make([]byte, n); return &b }
func (r releaser) Put(*[]byte)     { r.f.release() }

// cursor reads a frame from left to right; after the first mistake it gives zeroes and keeps the error.
type cursor struct {
	p   []byte
	err error
}

func (c *cursor) fail(format string, args ...any) {
	if c.err == nil {
		c.err = malformed(format, args...)
	}
	c.p = nil
}

func (c *cursor) take(n int) []byte {
	if c.err != nil || n < 0 || n > len(c.p) {
		c.fail("cut off")
		return nil
	}
	p := c.p[:n:n]
	c.p = c.p[n:]
	return p
}

func (c *cursor) byte() byte {
	if p := c.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (c *cursor) uint64() uint64 {
	if p := c.take(8); p != nil {
		return binary.LittleEndian.Uint64(p)
	}
	return 0
}

// number reads a varint of at most limit.
func (c *cursor) number(limit int64, what string) int64 {
	v, n := binary.Uvarint(c.p)
	if c.err != nil || n <= 0 {
		c.fail("%s is cut off", what)
		return 0
	}
	if v > uint64(limit) {
		c.fail("%s is %d, more than %d", what, v, limit)
		return 0
	}
	c.p = c.p[n:]
	return int64(v)
}

func (c *cursor) start(t frameType) {
	if got := frameType(c.byte()); got != t {
		c.fail("type %d where %d was expected", got, t)
	}
}

func (c *cursor) end() error {
	if c.err == nil && len(c.p) != 0 {
		c.fail("%d bytes too many", len(c.p))
	}
	return c.err
}
