package obs

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"understudy/internal/contract"
	"understudy/internal/model"
)

const (
	freshFor = 3 * time.Second
	patience = 5 * time.Second // below Prometheus' scrape timeout of ten
)

// Source is what is asked; starter.Client is one.
type Source interface {
	List(context.Context) ([]contract.DescribeOut, error)
	Hosts(context.Context) ([]contract.HostWatchState, error)
}

// Collector asks at most once in a few seconds, however many scrape.
type Collector struct {
	source Source
	now    func() time.Time
	// CertificateEnd tells when the server's certificate ends; nil without TLS.
	CertificateEnd func() time.Time
	// Notify tells what became of the server's own messages; nil without receivers.
	Notify func() *model.NotifyFacts

	mu   sync.Mutex
	at   time.Time
	last State
}

// NewCollector over a source.
func NewCollector(s Source, now func() time.Time) *Collector {
	return &Collector{source: s, now: now, last: State{Version: model.Version()}}
}

// Describe is empty: which metrics there are depends on what is protected.
func (c *Collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector. What was known last stays when nobody answers: its ages grow.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	Write(ch, c.State(), c.now())
}

// State is what is known now; it asks when the last answer is not fresh.
func (c *Collector) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at.IsZero() || c.now().Sub(c.at) > freshFor {
		c.ask()
		c.at = c.now()
	}
	if c.CertificateEnd != nil {
		c.last.CertificateEnd = c.CertificateEnd()
	}
	if c.Notify != nil {
		c.last.Notify = c.Notify()
	}
	return c.last
}

func (c *Collector) ask() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var g errgroup.Group
	var protections []contract.DescribeOut
	var hosts []contract.HostWatchState
	var hostsErr error
	g.Go(func() (err error) { protections, err = c.source.List(ctx); return err })
	g.Go(func() error { hosts, hostsErr = c.source.Hosts(ctx); return hostsErr })
	if err := g.Wait(); err != nil {
		c.last.Up, c.last.Why, c.last.Heard, c.last.HostsHeard = false, err.Error(), protections, hostsErr == nil
		if hostsErr == nil {
			c.last.Hosts = hosts
		}
		return
	}
	c.last = State{Up: true, Protections: protections, Hosts: hosts, Version: c.last.Version, CertificateEnd: c.last.CertificateEnd}
}
