package notify

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/model"
)

const soon = 30 * time.Second // a busy machine

// certificate of 127.0.0.1, which this process believes: TestMain has put it where the system's roots are looked for.
var certificate tls.Certificate

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "notify")
	if err == nil {
		err = trustOurselves(filepath.Join(dir, "ca.pem"))
	}
	if err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

func trustOurselves(file string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mail"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	certificate = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	if err := os.Setenv("SSL_CERT_FILE", file); err != nil {
		return err
	}
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600)
}

// post is a small SMTP server.
type post struct {
	t        *testing.T
	address  string
	startTLS bool // it offers that
	refuses  bool // any password, and repeats it
	mails    chan string

	mu   sync.Mutex
	said []string // what clients sent outside of mails
}

func openPost(t *testing.T, startTLS, implicit bool) *post {
	p := &post{t: t, startTLS: startTLS, mails: make(chan string, 100)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p.address = l.Addr().String()
	if implicit {
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{certificate}})
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { defer c.Close(); _ = c.SetDeadline(time.Now().Add(soon)); p.serve(c, implicit) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return p
}

func (p *post) serve(c net.Conn, secure bool) {
	r := bufio.NewReader(c)
	say := func(s string) { _, _ = io.WriteString(c, s+"\r\n") }
	say("220 post")
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSpace(line)
		p.mu.Lock()
		p.said = append(p.said, line)
		p.mu.Unlock()
		verb, rest, _ := strings.Cut(line, " ")
		switch strings.ToUpper(verb) {
		case "EHLO":
			say("250-post")
			if p.startTLS && !secure {
				say("250-STARTTLS")
			}
			say("250 AUTH PLAIN LOGIN")
		case "STARTTLS":
			say("220 go")
			s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{certificate}})
			if s.Handshake() != nil {
				return
			}
			c, r, secure = s, bufio.NewReader(s), true
			say = func(x string) { _, _ = io.WriteString(s, x+"\r\n") }
		case "AUTH":
			if _, initial, _ := strings.Cut(rest, " "); p.refuses {
				decoded, _ := base64.StdEncoding.DecodeString(initial)
				say("535 wrong: " + initial + " " + strings.ReplaceAll(string(decoded), "\x00", " "))
				continue
			}
			say("235 yes")
		case "DATA":
			say("354 go on")
			var b strings.Builder
			for {
				l, err := r.ReadString('\n')
				if err != nil {
					return
				}
				if l == ".\r\n" {
					break
				}
				b.WriteString(l)
			}
			p.mails <- b.String()
			say("250 taken")
		case "QUIT":
			say("221 bye")
			return
		default:
			say("250 ok")
		}
	}
}

func (p *post) heard() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.said, "\n")
}

// page is an HTTP receiver.
type page struct {
	*httptest.Server
	got chan request
}

type request struct {
	header http.Header
	path   string
	body   string
}

func (r request) document(t *testing.T) document {
	var d document
	require.NoError(t, json.Unmarshal([]byte(r.body), &d))
	return d
}

func openPage(t *testing.T, answer http.HandlerFunc) *page {
	p := &page{got: make(chan request, 1000)}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		p.got <- request{r.Header, r.RequestURI, string(b)}
		if answer != nil {
			answer(w, r)
		}
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *page) next(t *testing.T) request {
	t.Helper()
	select {
	case r := <-p.got:
		return r
	case <-time.After(soon):
		require.Fail(t, "nothing arrived")
		return request{}
	}
}

// silent accepts connections and never says a word.
func silent(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var all []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			all = append(all, c)
			mu.Unlock()
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
		for _, c := range all {
			_ = c.Close()
		}
	})
	return l.Addr().String()
}

// journal is a log that a test reads.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.String()
}

func (j *journal) log() *slog.Logger { return slog.New(slog.NewTextHandler(j, nil)) }

var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func exposed(vm string) model.Alarm {
	return model.Alarm{
		Key: "agent/rpo/" + vm, Name: "RPOViolated", VM: vm, Host: "host-a", What: vm + " is beyond its RPO",
		Why: "its oldest write that is in no verified point is 42s old, the target is 30s", Try: "understudy status " + vm,
	}
}

func batch(notices ...model.Notice) Batch {
	return Batch{Source: Source{"agent", "host-a"}, Notices: notices}
}

func firing(vm string) model.Notice {
	a := exposed(vm)
	a.Since = noon
	return model.Notice{Alarm: a, State: model.AlarmFiring, At: noon}
}

func one(t *testing.T, url string) Receiver {
	t.Helper()
	to, err := Open([]string{url})
	require.NoError(t, err)
	return to[0]
}
