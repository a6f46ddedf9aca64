package libvirtrpc

import (
	"context"
	"errors"
	"net"
	"sync"

	libvirt "github.com/digitalocean/go-libvirt"
)

// conn is one connection to libvirtd. Closing the socket ends every call on it, which is the only way to end one.
type conn struct {
	rpc  *libvirt.Libvirt
	sock *watched
}

func (c *conn) close() { _ = c.sock.Close() }

func (c *conn) alive() bool {
	select {
	case <-c.sock.dead:
		return false
	default:
		return true
	}
}

// watched is a socket that tells when it stopped being of use: go-libvirt's own signal can be missed when the connection is
// lost while it is being made.
type watched struct {
	net.Conn
	once sync.Once
	dead chan struct{}
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if err != nil {
		w.once.Do(func() { close(w.dead) })
	}
	return n, err
}

func (w *watched) Close() error {
	w.once.Do(func() { close(w.dead) })
	return w.Conn.Close()
}

// already is the dialer of a connection that exists.
type already struct{ net.Conn }

func (a already) Dial() (net.Conn, error) { return a.Conn, nil }

// open makes a connection and greets libvirtd.
func open(ctx context.Context, socket string) (*conn, error) {
	raw, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	sock := &watched{Conn: raw, dead: make(chan struct{})}
	c := &conn{rpc: libvirt.NewWithDialer(already{sock}), sock: sock}
	greeted := make(chan error, 1)
	go func() { greeted <- c.rpc.ConnectToURI(libvirt.QEMUSystem) }()
	select {
	case err = <-greeted:
	case <-ctx.Done():
		c.close()
		err = errors.Join(ctx.Err(), <-greeted)
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}
