package control

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"go.temporal.io/sdk/client"

	"understudy/internal/model"
	"understudy/internal/obs"
	"understudy/workers"
)

// health answers /healthz: 200 when the worker serves and Temporal answers, 503 otherwise, with what is wrong.
type health struct {
	worker  atomic.Pointer[client.Client] // nil while no worker serves
	bundled atomic.Pointer[bundled]       // nil with a cluster of the operator's own
	// certificate tells when the server's ends; nil without TLS.
	certificate func() time.Time
	notified    func() *model.NotifyFacts // nil without receivers

	once sync.Once
	seen *obs.Collector
}

// collector is shared by all that ask for the state of everything.
func (h *health) collector() *obs.Collector {
	h.once.Do(func() {
		h.seen = obs.NewCollector(plane{&h.worker}, time.Now)
		h.seen.CertificateEnd, h.seen.Notify = h.certificate, h.notified
	})
	return h.seen
}

// report is the body of /healthz.
type report struct {
	Healthy  bool   `json:"healthy"`
	Worker   string `json:"worker"`   // "serving" or "starting"
	Temporal string `json:"temporal"` // "ok" or why not
	Bundled  string `json:"bundled,omitempty"`
	Restarts int64  `json:"restarts"` // of the bundled Temporal
	Version  string `json:"version"`
}

func (h *health) look(ctx context.Context) report {
	r := report{Worker: "starting", Temporal: "not connected", Version: model.Version()}
	if b := h.bundled.Load(); b != nil {
		r.Bundled, r.Restarts = "dead", b.restarts.Load()
		if b.running.Load() {
			r.Bundled = "running"
		}
	}
	c := h.worker.Load()
	if c == nil {
		return r
	}
	r.Worker = "serving"
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if _, err := (*c).CheckHealth(ctx, &client.CheckHealthRequest{}); err != nil {
		r.Temporal = err.Error()
		return r
	}
	r.Temporal, r.Healthy = "ok", true
	return r
}

func (h *health) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r := h.look(req.Context())
	w.Header().Set("Content-Type", "application/json")
	if !r.Healthy {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(r) // the client may have gone
}

// listen serves on address until the returned function is called; an empty address serves nothing. systemd is told too.
func (h *health) listen(address string, log *slog.Logger) (stop func(), err error) {
	ctx, cancel := context.WithCancel(context.Background())
	told := make(chan struct{})
	go func() {
		defer close(told)
		workers.TellSystemd(ctx, func() bool { return h.worker.Load() != nil })
	}()
	untell := func() { cancel(); <-told }
	if address == "" {
		return untell, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		untell()
		return nil, model.Fail(model.Internal, err, "cannot listen on %s for health", address).WithTry("--health-listen HOST:PORT")
	}
	mux := http.NewServeMux()
	mux.Handle("GET /healthz", h)
	mux.Handle("GET /metrics", metrics(h.collector()))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("health_ended", "error", err)
		}
	}()
	return func() {
		_ = srv.Close()
		<-done
		untell()
	}, nil
}
