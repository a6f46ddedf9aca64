// Package libvirtrpc is the hypervisor port on a real libvirtd, by its RPC over the unix socket.
//
// libvirt's calls know no contexts. So each call that is under way has a connection of its own, and when its context ends
// that connection is closed: libvirtd may still carry the call out, nobody else's call is disturbed. A connection to a
// libvirtd that went away is dropped when it is next looked at, and a new one is made.
package libvirtrpc

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"understudy/internal/blockio/qemuimg"
	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

var _ hypervisor.Hypervisor = (*Client)(nil)

const (
	maxIdle = 4
	// maxCalls bounds the calls under way, so that a hung libvirtd cannot make us pile up connections.
	maxCalls = 32
)

// Client talks to one libvirtd. Its methods are safe for concurrent use.
type Client struct {
	socket string
	log    *slog.Logger
	img    qemuimg.Tool
	calls  chan struct{} // a token for each call under way
	ctx    context.Context
	stop   context.CancelFunc
	work   sync.WaitGroup

	mu   sync.Mutex
	idle []*conn
}

// Dial connects to the libvirtd behind the unix socket. The first connection is made at once, so that a wrong socket shows;
// later ones as needed.
func Dial(ctx context.Context, socket string, log *slog.Logger) (*Client, error) {
	c := Lazy(socket, log)
	first, err := c.take(ctx)
	if err != nil {
		c.stop()
		return nil, err
	}
	c.give(first)
	return c, nil
}

// Lazy is Dial without the first connection, for a process that must live although libvirtd does not yet.
func Lazy(socket string, log *slog.Logger) *Client {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c := &Client{socket: socket, log: log, calls: make(chan struct{}, maxCalls)}
	c.ctx, c.stop = context.WithCancel(context.Background())
	return c
}

// Close ends all connections and with them the calls under way.
func (c *Client) Close() error {
	c.mu.Lock()
	c.stop()
	idle := c.idle
	c.idle = nil
	c.mu.Unlock()
	for _, k := range idle {
		k.close()
	}
	c.work.Wait()
	return nil
}

// take gives a connection to be used alone; see give.
func (c *Client) take(ctx context.Context) (*conn, error) {
	if err := c.ctx.Err(); err != nil {
		return nil, model.Fail(model.Unreachable, err, "the connection to libvirtd was closed by us")
	}
	for {
		c.mu.Lock()
		n := len(c.idle)
		if n == 0 {
			c.mu.Unlock()
			break
		}
		k := c.idle[n-1]
		c.idle = c.idle[:n-1]
		c.mu.Unlock()
		if k.alive() {
			return k, nil
		}
		k.close()
	}
	k, err := open(ctx, c.socket)
	if err != nil {
		return nil, model.Fail(model.Unreachable, err, "libvirtd at %s does not answer", c.socket).
			WithTry("check that libvirtd runs: virsh -c qemu:///system version")
	}
	return k, nil
}

// working counts a goroutine that Close waits for; false when the client is closed.
func (c *Client) working() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		return false
	}
	c.work.Add(1)
	return true
}

func (c *Client) give(k *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil || !k.alive() || len(c.idle) >= maxIdle {
		k.close()
		return
	}
	c.idle = append(c.idle, k)
}

// call runs f with a connection until ctx ends. Errors are of our kinds. f must do nothing but calls on the connection: it is
// left behind when ctx ends, and ends itself because the connection is closed.
func call[T any](ctx context.Context, c *Client, what string, f func(l *libvirt.Libvirt) (T, error)) (T, error) {
	var none T
	select {
	case c.calls <- struct{}{}:
	case <-ctx.Done():
		return none, model.Fail(model.Unreachable, ctx.Err(), "%s: too many calls to libvirtd are waiting", what)
	}
	defer func() { <-c.calls }()
	k, err := c.take(ctx)
	if err != nil {
		return none, err
	}
	if !c.working() {
		k.close()
		return none, model.Fail(model.Unreachable, nil, "%s: the connection was closed by us", what)
	}
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		defer c.work.Done()
		v, err := f(k.rpc)
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		c.give(k)
		return r.v, failure(r.err, what)
	case <-ctx.Done():
		k.close()
		return none, model.Fail(model.Unreachable, ctx.Err(), "%s: libvirtd did not answer in time; whether it was done is not known", what)
	case <-c.ctx.Done():
		k.close()
		return none, model.Fail(model.Unreachable, c.ctx.Err(), "%s: the connection was closed by us", what)
	}
}

// do is call for what has no result.
func (c *Client) do(ctx context.Context, what string, f func(l *libvirt.Libvirt) error) error {
	_, err := call(ctx, c, what, func(l *libvirt.Libvirt) (struct{}, error) { return struct{}{}, f(l) })
	return err
}

// poll calls look until it says that the thing is so, or ctx ends.
func poll(ctx context.Context, what string, look func() (bool, error)) error {
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 250*time.Millisecond) {
		ok, err := look()
		if err != nil || ok {
			return err
		}
		select {
		case <-ctx.Done():
			return model.Fail(model.Unreachable, ctx.Err(), "%s: not yet so", what)
		case <-time.After(wait):
		}
	}
}

// aftercare is a context for cleaning up although ctx has ended, and for a bounded time.
func aftercare(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), limit)
}

// outlive is a context that ends some time after ctx.
func outlive(ctx context.Context, grace time.Duration) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		t := time.NewTimer(grace)
		defer t.Stop()
		select {
		case <-t.C:
			cancel()
		case <-longer.Done():
		}
	})
	return longer, func() {
		stop()
		cancel()
	}
}

func isKind(err error, kinds ...model.Kind) bool {
	var f *model.Failure
	if !errors.As(err, &f) {
		return false
	}
	for _, k := range kinds {
		if f.Kind == k {
			return true
		}
	}
	return false
}
