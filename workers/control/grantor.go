package control

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"sync"

	"understudy/internal/lease"
	"understudy/internal/link"
	"understudy/internal/model"
	"understudy/internal/trust"
	"understudy/workers"
)

// grantor is the control plane's end of the leases. It runs beside the worker and needs no Temporal: VMs go on while that is
// down.
type grantor struct {
	self model.Grantor
	l    net.Listener
	srv  *link.Server
	wg   sync.WaitGroup
}

// newGrantor listens; nil when nobody is to be granted anything (--lease-listen off).
func newGrantor(o Options, records *lease.Records, secure *trust.Folder, log *slog.Logger) (*grantor, error) {
	if o.LeaseListen == "" || o.LeaseListen == "off" {
		return nil, nil
	}
	l, err := net.Listen("tcp", o.LeaseListen)
	if err != nil {
		return nil, model.Fail(model.InvalidArgument, err, "cannot listen on %s for leases", o.LeaseListen).
			WithTry("understudy server --lease-listen HOST:PORT, or off")
	}
	address, err := leaseAddress(o, l.Addr())
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	g := &grantor{self: model.Grantor{Address: address, ID: records.ID()}, l: l}
	g.srv = link.NewResponder(workers.Granting(records.Grant), log, workers.LinkServer(secure)...)
	g.wg.Go(func() {
		if err := g.srv.Serve(l); err != nil && !errors.Is(err, net.ErrClosed) {
			log.Error("grantor_ended", "error", err)
		}
	})
	log.Info("granting", "address", address)
	return g, nil
}

func leaseAddress(o Options, listening net.Addr) (string, error) {
	if o.LeaseAdvertise != "" {
		if host, port, err := net.SplitHostPort(o.LeaseAdvertise); err != nil || host == "" || port == "" {
			return "", model.Fail(model.InvalidArgument, err, "--lease-advertise must be HOST:PORT, not %q", o.LeaseAdvertise)
		}
		return o.LeaseAdvertise, nil
	}
	host, port, err := net.SplitHostPort(listening.String())
	if err != nil {
		return "", err
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		if host, err = os.Hostname(); err != nil {
			return "", model.Fail(model.InvalidArgument, err, "this host has no name that agents could reach").WithTry("--lease-advertise HOST:PORT")
		}
	}
	return net.JoinHostPort(host, port), nil
}

func (g *grantor) stop() {
	g.srv.Stop()
	_ = g.l.Close() // closed by the server already
	g.wg.Wait()
}
