// Package nbd is a client of the NBD protocol: fixed newstyle negotiation, structured
// replies, metadata contexts (base:allocation and QEMU's dirty bitmaps), many requests
// in flight on one connection. It is a blockio.Source and blockio.Target.
//
// The server is not trusted: whatever it sends, the client neither panics nor holds
// more than a bounded amount of memory, and what breaks the protocol ends the
// connection with a *ProtocolError wrapped in blockio.ErrDisconnected. A server that
// merely never answers can be left only by the caller's context or by Close.
package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"understudy/internal/blockio"
)

var (
	_ blockio.Source = (*Client)(nil)
	_ blockio.Target = (*Client)(nil)
)

const (
	// DefaultHandshakeTimeout bounds Dial and New when Options say nothing.
	DefaultHandshakeTimeout = 10 * time.Second

	// sendGrace is how long a cancelled call goes on sending the request it has begun:
	// half a request on the wire would cost every other caller the connection.
	sendGrace = 2 * time.Second

	// closeGrace is how long Close tries to say goodbye.
	closeGrace = 250 * time.Millisecond

	socketBuf = 1 << 20 // asked of the kernel for sending, which may give less
)

// Options says what to open.
type Options struct {
	// Export is the export's name; "" is the default export.
	Export string
	// Bitmap, if not empty, is the dirty bitmap that Map(DirtyBitmap) reads, and opening
	// fails with blockio.ErrNoMap if the server does not export it. For libvirt's backup
	// jobs it is the exportbitmap attribute, for qemu-nbd the name given to -B.
	Bitmap string
	// HandshakeTimeout bounds connecting and negotiating; 0 is DefaultHandshakeTimeout.
	HandshakeTimeout time.Duration
}

func (o Options) check() error {
	switch {
	case len(o.Export) > maxString || strings.ContainsRune(o.Export, 0):
		return errors.New("nbd: bad export name")
	case len(o.Bitmap) > maxBitmapName || strings.ContainsRune(o.Bitmap, 0):
		return errors.New("nbd: bad bitmap name")
	}
	return nil
}

// Client is one connection to one export. Its methods are safe for concurrent use.
type Client struct {
	conn net.Conn
	in   *stream // used by the receiver only
	info Info

	sendSem chan struct{} // held while a request is being written
	sendHdr [requestHdrSize]byte

	rmw sync.Mutex // one read-modify-write of a part of a block at a time

	dead    chan struct{} // closed when err is set
	stopped chan struct{} // closed when the receiver has ended

	mu        sync.Mutex
	err       error // why the connection ended
	next      uint64
	pending   map[uint64]*pending // nil once the receiver has ended
	busy      *pending            // whose buffer the receiver is writing to
	abandoned int
}

// pending is a request whose answer is owed.
type pending struct {
	cmd    uint16
	off    int64
	length int64

	// The caller's until sent, then the receiver's until done is closed.
	buf       []byte       // where a read goes
	cover     coverage     // what of buf has arrived
	context   uint32       // block status: which metadata context is wanted
	descs     []descriptor // block status: what was told about it
	seen      [2]uint32    // block status: contexts told about so far
	seenCount int
	errors    int
	err       error
	done      chan struct{}

	// Guarded by Client.mu.
	gone     bool          // the caller has given up, or is about to
	detached chan struct{} // closed when the receiver has let go of buf
}

// DialUnix connects to the server on a unix socket.
func DialUnix(ctx context.Context, socket string, opts Options) (*Client, error) {
	conn, opts, err := dial(ctx, socket, opts)
	if err != nil {
		return nil, err
	}
	return New(ctx, conn, opts)
}

func dial(ctx context.Context, socket string, opts Options) (net.Conn, Options, error) {
	if opts.HandshakeTimeout <= 0 {
		opts.HandshakeTimeout = DefaultHandshakeTimeout
	}
	start := time.Now()
	dialer := net.Dialer{Timeout: opts.HandshakeTimeout}
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, opts, fmt.Errorf("nbd: connecting: %w", err)
	}
	opts.HandshakeTimeout = max(opts.HandshakeTimeout-time.Since(start), time.Millisecond)
	return conn, opts, nil
}

// New negotiates on a connection that nothing was sent on yet, and owns it from then
// on: it is closed when New fails. ctx bounds the handshake only.
func New(ctx context.Context, conn net.Conn, opts Options) (*Client, error) {
	n := negotiator{conn: conn, in: newStream(conn), opts: opts}
	if err := handshake(ctx, conn, opts, n.negotiate); err != nil {
		_ = conn.Close()
		return nil, err
	}
	if b, ok := conn.(interface{ SetWriteBuffer(int) error }); ok {
		_ = b.SetWriteBuffer(socketBuf)
	}
	return start(conn, n.in, n.info), nil
}

// ListContexts asks a server which metadata contexts an export has. queries as
// "base:" or "qemu:dirty-bitmap:"; none lists all. The names are untrusted.
func ListContexts(ctx context.Context, socket, export string, queries ...string) ([]string, error) {
	conn, opts, err := dial(ctx, socket, Options{Export: export})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	n := negotiator{conn: conn, in: newStream(conn), opts: opts}
	var names []string
	err = handshake(ctx, conn, opts, func() (err error) {
		names, err = n.list(queries)
		return err
	})
	return names, err
}

// handshake runs f under the deadline of opts and ctx.
func handshake(ctx context.Context, conn net.Conn, opts Options, f func() error) error {
	if err := opts.check(); err != nil {
		return err
	}
	if opts.HandshakeTimeout <= 0 {
		opts.HandshakeTimeout = DefaultHandshakeTimeout
	}
	if err := conn.SetDeadline(time.Now().Add(opts.HandshakeTimeout)); err != nil {
		return fmt.Errorf("nbd: %w", err)
	}
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		_ = conn.SetDeadline(time.Unix(1, 0))
	})
	err := f()
	if !stop() {
		<-woken
		return fmt.Errorf("nbd: handshake: %w", ctx.Err())
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	var refusal *HandshakeError
	if err == nil || errors.As(err, &refusal) || errors.Is(err, blockio.ErrNoMap) {
		return err
	}
	return &disconnected{cause: err}
}

// start begins the transmission phase.
func start(conn net.Conn, in *stream, info Info) *Client {
	c := &Client{
		conn: conn, in: in, info: info,
		sendSem: make(chan struct{}, 1),
		dead:    make(chan struct{}),
		stopped: make(chan struct{}),
		pending: make(map[uint64]*pending),
	}
	in.resume = c.resume
	go c.receive()
	return c
}

// Info is what the handshake settled.
func (c *Client) Info() Info { return c.info }

// Size is the size of the export in bytes.
func (c *Client) Size() int64 { return c.info.Size }

// Done is closed when the connection has ended, for whatever reason.
func (c *Client) Done() <-chan struct{} { return c.dead }

// Err is nil while the connection lives, then why it ended: blockio.ErrDisconnected
// with its cause, or blockio.ErrClosed.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close says goodbye if it can do so at once, ends the connection, fails the requests
// in flight with blockio.ErrClosed, and waits for the receiver. It does not flush.
func (c *Client) Close() error {
	c.mu.Lock()
	alive := c.err == nil
	c.setErr(blockio.ErrClosed)
	c.mu.Unlock()
	select {
	case c.sendSem <- struct{}{}:
		if alive { // section "Terminating the transmission phase"
			c.header(cmdDisc, 0, 0, 0)
			_ = c.conn.SetWriteDeadline(time.Now().Add(closeGrace))
			_, _ = c.conn.Write(c.sendHdr[:])
		}
		_ = c.conn.Close()
		<-c.sendSem
	default: // somebody is sending: the goodbye would have to wait for him
		_ = c.conn.Close()
	}
	<-c.stopped
	return nil
}

// fail ends the connection with its first cause; the receiver does the rest.
func (c *Client) fail(cause error) {
	c.mu.Lock()
	c.setErr(cause)
	c.mu.Unlock()
	_ = c.conn.Close()
}

// setErr keeps the first cause. With c.mu held.
func (c *Client) setErr(cause error) {
	if c.err != nil {
		return
	}
	if !errors.Is(cause, blockio.ErrClosed) {
		cause = &disconnected{cause: cause}
	}
	c.err = cause
	close(c.dead)
}

// do sends one request and waits for its answer or for ctx. When it returns the
// receiver holds neither payload nor pd.buf.
func (c *Client) do(ctx context.Context, pd *pending, payload []byte) error {
	err := c.exchange(ctx, pd, payload)
	switch err.(type) { //nolint:errorlint // made by the receiver, never wrapped
	case nil, *ServerError:
		return err
	}
	return fmt.Errorf("nbd: %s of %d bytes at %d: %w", commandName(pd.cmd), pd.length, pd.off, err)
}

func (c *Client) exchange(ctx context.Context, pd *pending, payload []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case c.sendSem <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-c.dead:
		return c.Err()
	}
	pd.done = make(chan struct{})
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		<-c.sendSem
		return c.Err()
	}
	c.next++
	handle := c.next
	c.pending[handle] = pd
	c.mu.Unlock()

	c.header(pd.cmd, handle, pd.off, pd.length)
	err := c.send(ctx, payload)
	<-c.sendSem
	if err != nil { // part of a request is on the wire: nothing can follow it
		c.fail(fmt.Errorf("sending a request: %w", err))
	}
	select {
	case <-pd.done:
		if err != nil && ctx.Err() != nil {
			return ctx.Err()
		}
		return pd.err
	case <-ctx.Done():
		return c.abandon(ctx, pd)
	}
}

// header puts a request header into sendHdr. With sendSem held.
func (c *Client) header(cmd uint16, handle uint64, off, length int64) {
	h := c.sendHdr[:]
	binary.BigEndian.PutUint32(h, magicRequest)
	binary.BigEndian.PutUint16(h[4:], 0) // command flags
	binary.BigEndian.PutUint16(h[6:], cmd)
	binary.BigEndian.PutUint64(h[8:], handle)
	binary.BigEndian.PutUint64(h[16:], uint64(off))
	binary.BigEndian.PutUint32(h[24:], uint32(length))
}

// send writes sendHdr and payload. With sendSem held.
func (c *Client) send(ctx context.Context, payload []byte) (err error) {
	if ctx.Done() != nil {
		fired := make(chan struct{})
		stop := context.AfterFunc(ctx, func() {
			defer close(fired)
			_ = c.conn.SetWriteDeadline(time.Now().Add(sendGrace))
		})
		defer func() {
			if !stop() {
				<-fired
				_ = c.conn.SetWriteDeadline(time.Time{})
			}
		}()
	}
	if len(payload) == 0 {
		_, err = c.conn.Write(c.sendHdr[:])
		return err
	}
	bufs := net.Buffers{c.sendHdr[:], payload}
	_, err = bufs.WriteTo(c.conn)
	return err
}

// abandon gives up on pd. It returns only when the receiver no longer writes to pd.buf:
// if it is doing so, a passed read deadline wakes it from a server that has stalled.
func (c *Client) abandon(ctx context.Context, pd *pending) error {
	c.mu.Lock()
	if c.pending == nil { // the receiver is ending and closes done
		c.mu.Unlock()
		<-pd.done
		return ctx.Err()
	}
	select {
	case <-pd.done: // the answer was faster
		c.mu.Unlock()
		return pd.err
	default:
	}
	pd.gone = true
	pd.detached = make(chan struct{})
	c.abandoned++
	tooMany := c.abandoned > maxAbandoned
	if c.busy == pd {
		_ = c.conn.SetReadDeadline(time.Unix(1, 0))
	} else {
		pd.detach()
	}
	c.mu.Unlock()
	if tooMany {
		c.fail(errors.New("the server owes too many answers"))
	}
	select {
	case <-pd.detached:
	case <-pd.done:
	}
	return ctx.Err()
}

// detach lets go of the caller's memory. With Client.mu held.
func (pd *pending) detach() {
	pd.buf = nil
	close(pd.detached)
}
