package control

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"go.temporal.io/sdk/client"
	"golang.org/x/time/rate"

	"understudy/internal/contract"
	"understudy/internal/model"
	"understudy/internal/trust"
	"understudy/starter"
)

// WebhookOptions of `understudy server`; without Listen there is no webhook.
type WebhookOptions struct {
	Listen    string
	TokenFile string
	VMLabel   string
	Match     []string // NAME=VALUE: labels that an alert must have to count
	DryRun    bool
	// Secure: TLS with the certificate of this folder, and an operator's certificate is as good as the token. Nil: plain text.
	Secure *trust.Folder
	TLS    bool // wanted
}

const (
	maxWebhookBody = 1 << 20
	webhookTimeout = 20 * time.Second
	maxToken       = 4096
	ownAlerts      = "Understudy" // our own alerts say that a promise is broken, never that a VM is dead
)

func (o WebhookOptions) validate() error {
	if o.Listen == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(o.Listen)
	if err != nil {
		return model.Fail(model.InvalidArgument, err, "--webhook-listen is no address").WithTry("--webhook-listen 127.0.0.1:7481")
	}
	ip := net.ParseIP(host)
	if o.TokenFile == "" && !o.TLS && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return model.Fail(model.InvalidArgument, nil, "the webhook on %s needs a token: whoever reaches it could start failovers", o.Listen).
			WithTry("--webhook-token-file FILE, or --webhook-tls and an operator's certificate")
	}
	if o.VMLabel == "" {
		return model.Fail(model.InvalidArgument, nil, "--webhook-vm-label must not be empty").WithTry("--webhook-vm-label understudy_vm")
	}
	if _, err := o.rules(); err != nil {
		return err
	}
	if o.TokenFile == "" {
		return nil
	}
	_, err = readToken(o.TokenFile)
	return err
}

// rules are the labels that an alert must have, all of them.
func (o WebhookOptions) rules() (map[string]string, error) {
	rules := map[string]string{}
	for _, m := range o.Match {
		name, value, found := strings.Cut(m, "=")
		if !found || name == "" || value == "" {
			return nil, model.Fail(model.InvalidArgument, nil, "--webhook-match is NAME=VALUE, not %q", m).WithTry("--webhook-match severity=critical")
		}
		if other, twice := rules[name]; twice && other != value {
			return nil, model.Fail(model.InvalidArgument, nil, "no alert has a label %s of both %q and %q", name, other, value)
		}
		rules[name] = value
	}
	return rules, nil
}

// readToken is asked for each request, so that a token is changed without a restart.
func readToken(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", model.Fail(model.InvalidArgument, err, "the webhook's token cannot be read")
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxToken))
	token := strings.TrimSpace(string(b))
	if err != nil || token == "" {
		return "", model.Fail(model.InvalidArgument, err, "the webhook's token file %s is empty or unreadable", path)
	}
	return token, nil
}

// monitored is what the webhook needs of the control plane.
type monitored interface {
	Find(ctx context.Context, vm string) (contract.DescribeOut, error)
	Crash(ctx context.Context, vmUUID string, in contract.CrashIn) error
}

// plane is the control plane while a worker serves.
type plane struct {
	worker *atomic.Pointer[client.Client]
}

func (p plane) client() (*starter.Client, error) {
	c := p.worker.Load()
	if c == nil {
		return nil, model.Fail(model.Unreachable, nil, "the server is not connected to Temporal")
	}
	return starter.New(*c), nil
}

func (p plane) Find(ctx context.Context, vm string) (contract.DescribeOut, error) {
	c, err := p.client()
	if err != nil {
		return contract.DescribeOut{}, err
	}
	return c.Find(ctx, vm)
}

func (p plane) Crash(ctx context.Context, vmUUID string, in contract.CrashIn) error {
	c, err := p.client()
	if err != nil {
		return err
	}
	return starter.SignalTo(ctx, c, contract.SigCrash, contract.ProtectID(vmUUID), in)
}

// webhook turns what monitoring says into crash signals. It cannot start a VM: the failover that a signal asks for still
// needs proof that the old copy is off.
type webhook struct {
	o     WebhookOptions
	plane monitored
	log   *slog.Logger
	limit *rate.Limiter
	turn  chan struct{} // one request at a time: a repeat must see what the first one did
	seen  *seenAlerts
	rules map[string]string
	pace  map[string]*rate.Limiter // of one VM; by UUID
}

// Alone a VM can be signalled at once, three times; after that twice a minute. A monitor gone mad moves one VM no further.
const (
	vmSignals = 3
	vmEvery   = 30 * time.Second
)

func newWebhook(o WebhookOptions, p monitored, dataDir string, log *slog.Logger) (*webhook, error) {
	seen, err := openSeen(filepath.Join(dataDir, "webhook-seen.json"), time.Now)
	if err != nil {
		return nil, err
	}
	rules, err := o.rules()
	if err != nil {
		return nil, err
	}
	return &webhook{
		o: o, plane: p, log: log, limit: rate.NewLimiter(10, 30), turn: make(chan struct{}, 1), seen: seen, rules: rules, pace: map[string]*rate.Limiter{},
	}, nil
}

func (h *webhook) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /webhook/alertmanager", func(w http.ResponseWriter, r *http.Request) { h.serve(w, r, alertmanager(h.o.VMLabel, h.rules)) })
	mux.HandleFunc("POST /webhook/crash", func(w http.ResponseWriter, r *http.Request) { h.serve(w, r, plain) })
	return mux
}

func (h *webhook) allowed(r *http.Request) bool {
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 { // verified, and an operator's
		return h.o.Secure.Allowed(r.TLS.PeerCertificates[0]) == nil
	}
	if h.o.TokenFile == "" {
		return h.o.Secure == nil // only on loopback
	}
	want, err := readToken(h.o.TokenFile)
	if err != nil {
		h.log.Error("webhook_token", "error", err)
		return false
	}
	got, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	a, b := sha256.Sum256([]byte(got)), sha256.Sum256([]byte(want))
	return ok && subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

func (h *webhook) serve(w http.ResponseWriter, r *http.Request, decode func([]byte) ([]signalReport, error)) {
	// Alertmanager repeats after 5xx only; what may succeed later is therefore 503, not 429.
	if !h.limit.Allow() {
		w.Header().Set("Retry-After", "1")
		refuse(w, http.StatusServiceUnavailable, "too many requests")
		return
	}
	if !h.allowed(r) {
		w.Header().Set("WWW-Authenticate", "Bearer")
		refuse(w, http.StatusUnauthorized, "a bearer token or an operator's certificate is needed")
		return
	}
	// A web page of a stranger cannot send this type to loopback without asking first.
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		refuse(w, http.StatusUnsupportedMediaType, "Content-Type must be application/json")
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxWebhookBody))
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		refuse(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("the body exceeds %d bytes", maxWebhookBody))
		return
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, "the body cannot be read")
		return
	}
	reports, err := decode(body)
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), webhookTimeout)
	defer cancel()
	select {
	case h.turn <- struct{}{}:
		defer func() { <-h.turn }()
	case <-ctx.Done():
		refuse(w, http.StatusServiceUnavailable, "busy")
		return
	}
	a := answer{MessageType: "webhook", DryRun: h.o.DryRun, Alerts: []verdict{}}
	status := http.StatusOK
	for _, rep := range reports {
		v := h.judge(ctx, rep)
		h.log.Info("webhook", "alert", v.Alert, "vm", v.VM, "outcome", v.Outcome, "detail", v.Detail, "dry_run", h.o.DryRun)
		if v.Outcome == "failed" || v.Outcome == "limited" { // Alertmanager sends it again
			status = http.StatusServiceUnavailable
		}
		a.Alerts = append(a.Alerts, v)
	}
	write(w, status, a)
}

func refuse(w http.ResponseWriter, status int, why string) {
	write(w, status, map[string]string{"message_type": "error", "what": why})
}

func write(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client may have gone
}

// listen serves until the returned function is called.
func (h *webhook) listen() (stop func(), err error) {
	l, err := net.Listen("tcp", h.o.Listen)
	if err != nil {
		return nil, model.Fail(model.Internal, err, "cannot listen on %s for the webhook", h.o.Listen).WithTry("--webhook-listen HOST:PORT")
	}
	if h.o.Secure != nil {
		l = tls.NewListener(l, h.o.Secure.Mixed(trust.Operator))
	}
	srv := &http.Server{Handler: h.routes(), ReadTimeout: 10 * time.Second, WriteTimeout: 2 * webhookTimeout, MaxHeaderBytes: 16 << 10}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			h.log.Error("webhook_ended", "error", err)
		}
	}()
	return func() {
		_ = srv.Close()
		<-done
	}, nil
}
