package link

import (
	"context"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"understudy/internal/model"
)

const (
	dialTimeout = 5 * time.Second
	pingEvery   = 10 * time.Second // the least that gRPC allows a client; the session's own watch is quicker
)

// Client talks to the agent at one address. Its methods are safe for concurrent use.
type Client struct {
	address string
	opts    []grpc.DialOption
	conn    *grpc.ClientConn // for pings; each session has a connection of its own
	silence int              // seconds after which a session's peer counts as gone
}

// Dial makes a client. It connects with the first call, and again after the connection was lost. More options, for
// example credentials for TLS, may follow.
func Dial(_ context.Context, address string, opts ...grpc.DialOption) (*Client, error) {
	if _, port, err := net.SplitHostPort(address); err != nil || port == "" {
		return nil, model.Fail(model.InvalidArgument, err, "%q is not the address of an agent", address).
			WithTry("give host:port")
	}
	c := &Client{address: address, opts: opts, silence: 8}
	var err error
	c.conn, err = c.connect(nil)
	return c, err
}

// connect makes a connection; counters, if given, count its bytes.
func (c *Client) connect(w *wire) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("passthrough:///"+c.address, append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{}), grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window), grpc.WithMaxHeaderListSize(maxHeader),
		grpc.WithWriteBufferSize(bufferSize), grpc.WithReadBufferSize(32 << 10),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: dialTimeout,
		}),
		grpc.WithDisableRetry(), grpc.WithDisableServiceConfig(),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: pingAfter, PermitWithoutStream: false}),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", address)
			if err != nil || w == nil {
				return conn, err
			}
			return &counted{conn, w}, nil
		}),
	}, c.opts...)...)
	if err != nil {
		return nil, model.Fail(model.InvalidArgument, err, "the address %s of an agent", c.address)
	}
	return conn, nil
}

// Ping asks the agent who it is.
func (c *Client) Ping(ctx context.Context) (model.HostID, error) {
	const what = "asking the agent"
	var md metadata.MD
	out := &frame{}
	var who peer.Peer
	if err := c.conn.Invoke(ctx, fullPing, &frame{body: []byte{byte(framePing)}}, out, grpc.Trailer(&md), grpc.Peer(&who)); err != nil {
		return "", fromStatus(ctx, err, md, c.address, what)
	}
	host, err := decodePong(out.body)
	if err != nil {
		return "", down(err, c.address, what)
	}
	return host, Speaks(peer.NewContext(ctx, &who), host)
}

// Close ends the connection for pings. Sessions are closed by whoever opened them.
func (c *Client) Close() error { return c.conn.Close() }

// wire counts the bytes of a session's connection.
type wire struct{ sent, received atomic.Int64 }

type counted struct {
	net.Conn
	w *wire
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.w.received.Add(int64(n))
	return n, err
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.w.sent.Add(int64(n))
	return n, err
}
