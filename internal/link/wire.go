package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"google.golang.org/grpc/mem"

	"understudy/internal/model"
)

// Bounds of what one frame carries.
const (
	// MaxBatch is the most data of one Batch, before compression, and of the runs of one Look.
	MaxBatch = 1 << 20
	// MaxOps bounds the operations of one Batch and the runs of one Look.
	MaxOps = 1024

	// MaxGrain is the coarsest Look: one digest for 2^8 blocks, 1 MiB.
	MaxGrain = 8

	maxBlocks  = MaxBatch / model.BlockSize
	maxMessage = MaxBatch + 64<<10
	version    = 3
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
	frameAsk
	frameAnswer
)

// frame is one message. tail follows body on the wire without being copied; done is called when the transport no longer
// needs it. What is received of a batch stays in the transport's buffers: parts is what follows body.
type frame struct {
	body []byte
	tail []byte
	done func()

	parts [][]byte
	held  []mem.Buffer // where parts lie
}

// headSize is where a batch's frame says how long its body is: after the type.
const headSize = 1 + 4

// maxParts bounds the buffers of the transport that one frame keeps: more are a sender that cuts its frames small, and are
// copied together.
const maxParts = 2 * maxMessage / poolBuffer

func (f *frame) kind() frameType {
	if len(f.body) == 0 {
		return 0
	}
	return frameType(f.body[0])
}

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
	f.drop()
	body := n
	var head [headSize]byte
	if data.CopyTo(head[:]) == headSize && frameType(head[0]) == frameBatch {
		body = int(min(binary.LittleEndian.Uint32(head[1:]), uint32(n)))
	}
	if cap(f.body) < body {
		f.body = make([]byte, body)
	}
	f.body = f.body[:body]
	data.CopyTo(f.body)
	if body < n {
		f.keep(data, body)
	}
	return nil
}

// keep takes what follows the first skip bytes.
func (f *frame) keep(data mem.BufferSlice, skip int) {
	if len(data) > maxParts {
		f.parts = append(f.parts, data.Materialize()[skip:])
		return
	}
	for _, b := range data {
		p := b.ReadOnlyData()
		if skip >= len(p) {
			skip -= len(p)
			continue
		}
		b.Ref()
		f.held = append(f.held, b)
		f.parts = append(f.parts, p[skip:])
		skip = 0
	}
}

// drop gives the transport's buffers back.
func (f *frame) drop() {
	for _, b := range f.held {
		b.Free()
	}
	clear(f.held)
	clear(f.parts)
	f.held, f.parts = f.held[:0], f.parts[:0]
}

// total is the length of parts.
func total(parts [][]byte) int {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	return n
}

// join puts parts one behind the other into space, which grows, unless there is only one.
func join(parts [][]byte, space *[]byte) []byte {
	if len(parts) == 1 {
		return parts[0]
	}
	p := (*space)[:0]
	for _, part := range parts {
		p = append(p, part...)
	}
	*space = p
	return p
}

// poolBuffer is what gRPC reads a DATA frame into.
const poolBuffer = 16 << 10

// buffers is the pool of what is received. gRPC's own clears each buffer before it is written over.
type buffers struct{ free sync.Pool }

func (b *buffers) Get(n int) *[]byte {
	if n > poolBuffer {
		p := make([]byte, n)
		return &p
	}
	p, ok := b.free.Get().(*[]byte)
	if !ok {
		q := make([]byte, poolBuffer)
		p = &q
	}
	*p = (*p)[:n]
	return p
}

func (b *buffers) Put(p *[]byte) {
	if cap(*p) == poolBuffer {
		b.free.Put(p)
	}
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
