package trust

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"sync"

	"golang.org/x/time/rate"

	"understudy/internal/model"
)

const (
	joinPath  = "/v1/join"
	renewPath = "/v1/renew"
	maxAsked  = 16 << 10
)

type joinIn struct {
	Secret  string `json:"secret"`
	Request string `json:"request"` // PEM
}

type grantOut struct {
	Authority   string `json:"authority,omitempty"` // PEM, when joining
	Certificate string `json:"certificate"`         // PEM
}

// Desk is where hosts join and certificates are renewed.
type Desk struct {
	authority *Authority
	folder    *Folder // of the server
	log       *slog.Logger
	joins     *rate.Limiter // of strangers
	renewals  *rate.Limiter

	mu sync.Mutex // one redemption at a time
}

// NewDesk serves an authority under the server's own certificate.
func NewDesk(a *Authority, f *Folder, log *slog.Logger) *Desk {
	return &Desk{authority: a, folder: f, log: log, joins: rate.NewLimiter(1, 10), renewals: rate.NewLimiter(10, 50)}
}

// TLS shows the authority too: who joins knows only its digest. A client without a certificate may join, nothing else.
func (d *Desk) TLS() *tls.Config {
	return d.folder.server(tls.VerifyClientCertIfGiven, func(m *material) [][]byte {
		list := make([][]byte, len(m.roots0))
		for i, c := range m.roots0 {
			list[i] = c.Raw
		}
		return list
	}, []Role{Host, Server, Operator})
}

// Routes answers HTTP.
func (d *Desk) Routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+joinPath, d.join)
	mux.HandleFunc("POST "+renewPath, d.renew)
	return mux
}

func (d *Desk) join(w http.ResponseWriter, r *http.Request) {
	if !d.joins.Allow() {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "too many requests", http.StatusServiceUnavailable)
		return
	}
	var in joinIn
	p, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxAsked))
	if err == nil {
		err = json.Unmarshal(p, &in)
	}
	secret, decodeErr := base64.RawURLEncoding.DecodeString(in.Secret)
	if err != nil || decodeErr != nil || len(secret) != secretSize {
		http.Error(w, "the request cannot be understood", http.StatusBadRequest)
		return
	}
	pub, err := ParseRequest([]byte(in.Request))
	if err != nil {
		d.refuse(w, r, err)
		return
	}
	d.mu.Lock()
	cert, id, err := d.authority.redeem(secret, pub)
	d.mu.Unlock()
	if err != nil {
		d.refuse(w, r, err)
		return
	}
	d.log.Info("joined", "identity", id.String(), "from", r.RemoteAddr)
	d.grant(w, grantOut{Authority: string(d.authority.Certificate()), Certificate: string(cert)})
}

// renew needs no body: who holds the key of a good certificate gets one that says the same.
func (d *Desk) renew(w http.ResponseWriter, r *http.Request) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		http.Error(w, "a certificate is renewed by showing it", http.StatusUnauthorized)
		return
	}
	if !d.renewals.Allow() {
		w.Header().Set("Retry-After", "5")
		http.Error(w, "too many requests", http.StatusServiceUnavailable)
		return
	}
	own := r.TLS.PeerCertificates[0]
	err := d.folder.Allowed(own)
	var cert []byte
	if err == nil {
		cert, err = d.authority.follow(own)
	}
	if err != nil {
		d.refuse(w, r, err)
		return
	}
	d.log.Info("renewed", "identity", own.Subject.CommonName, "from", r.RemoteAddr)
	d.grant(w, grantOut{Certificate: string(cert)})
}

func (d *Desk) refuse(w http.ResponseWriter, r *http.Request, err error) {
	d.log.Warn("certificate_refused", "from", r.RemoteAddr, "error", err)
	status, what := http.StatusForbidden, "refused"
	var f *model.Failure
	if errors.As(err, &f) {
		what = f.What
		if f.Kind == model.Internal {
			status, what = http.StatusInternalServerError, "the server cannot do it now"
		}
	}
	http.Error(w, what, status)
}

func (d *Desk) grant(w http.ResponseWriter, out grantOut) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out) // who has gone asks again
}
