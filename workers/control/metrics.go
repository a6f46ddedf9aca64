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

// metrics of the control plane.
func metrics(c *obs.Collector) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(c)
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{Timeout: 8 * time.Second})
}
