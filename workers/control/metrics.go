package control

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"understudy/internal/contract"
	"understudy/internal/obs"
)

func (p plane) List(ctx context.Context) ([]contract.DescribeOut, error) {
	c, err := p.client()
	if err != nil {
		return nil, err
	}
	return c.List(ctx)
}

func (p plane) Hosts(ctx context.Context) ([]contract.HostWatchState, error) {
	c, err := p.client()
	if err != nil {
		return nil, err
	}
	return c.Hosts(ctx)
}

// metrics of the control plane; certificate tells when the server's own ends, nil without TLS.
func metrics(p plane, certificate func() time.Time) http.Handler {
	r, c := prometheus.NewRegistry(), obs.NewCollector(p, time.Now)
	c.CertificateEnd = certificate
	r.MustRegister(c)
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{Timeout: 8 * time.Second})
}
