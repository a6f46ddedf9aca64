package trust

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"understudy/internal/durable"
	"understudy/internal/model"
)

// RenewFile names the server that renews the certificate of a folder, HOST:PORT.
const RenewFile = "renew-at"

const (
	askLimit     = 20 * time.Second
	lookEvery    = time.Hour
	renewAgain   = 10 * time.Minute
	renewAtShare = 3 // renewal begins when a third of the time is left
)

// Join makes a key in dir, asks the server for a certificate of it and installs that. Repeating it after a lost answer works
// with the same token.
func Join(ctx context.Context, server, token, dir string) (Identity, error) {
	t, err := ParseToken(token)
	if err != nil {
		return Identity{}, err
	}
	key, err := NewKey(dir)
	if err != nil {
		return Identity{}, err
	}
	request, err := Request(key)
	if err != nil {
		return Identity{}, err
	}
	body, err := json.Marshal(joinIn{Secret: base64.RawURLEncoding.EncodeToString(t.Secret[:]), Request: string(request)})
	if err != nil {
		return Identity{}, err
	}
	out, err := post(ctx, server, joinPath, pinned(t.Authority), body)
	if err != nil {
		return Identity{}, err
	}
	id, err := checkGrant(out, t.Authority, key.Public())
	if err != nil {
		return id, model.Fail(model.Refused, err, "the answer of %s is not what was asked for", server)
	}
	if err := Install(dir, []byte(out.Authority), []byte(out.Certificate)); err != nil {
		return id, err
	}
	if err := durable.WriteFile(filepath.Join(dir, RenewFile), []byte(server+"\n")); err != nil {
		return id, model.Fail(model.Internal, err, "the address for renewals cannot be written")
	}
	_, err = Open(dir)
	return id, err
}

// pinned trusts the one authority with this digest, which the other side shows behind its own certificate.
func pinned(authority [sha256.Size]byte) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, //nolint:gosec // VerifyConnection checks by the token's digest
		VerifyConnection: func(cs tls.ConnectionState) error {
			for _, c := range cs.PeerCertificates {
				if sha256.Sum256(c.Raw) != authority {
					continue
				}
				m := &material{roots: x509.NewCertPool()}
				m.roots.AddCert(c)
				leaf, err := m.verify(rawChain(cs), x509.ExtKeyUsageServerAuth, time.Now())
				if err == nil {
					_, err = roleOf(leaf, []Role{Server})
				}
				return err
			}
			return errors.New("this is not the server that the token is for")
		},
	}
}

// checkGrant trusts nothing that the token and our key do not prove.
func checkGrant(out grantOut, authority [sha256.Size]byte, own crypto.PublicKey) (Identity, error) {
	roots, err := ParseCertificates([]byte(out.Authority))
	if err != nil {
		return Identity{}, fmt.Errorf("its authority cannot be read: %w", err)
	}
	if len(roots) != 1 || sha256.Sum256(roots[0].Raw) != authority {
		return Identity{}, errors.New("it is of another authority")
	}
	list, err := ParseCertificates([]byte(out.Certificate))
	if err != nil {
		return Identity{}, err
	}
	if err := list[0].CheckSignatureFrom(roots[0]); err != nil {
		return Identity{}, err
	}
	if err := sameKey(list[0], own); err != nil {
		return Identity{}, err
	}
	return IdentityOf(list[0])
}

func sameKey(c *x509.Certificate, own crypto.PublicKey) error {
	if pub, ok := c.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(own) {
		return errors.New("the certificate is of another key")
	}
	return nil
}

// RenewAt asks the server that the folder names for a certificate that lasts longer, and installs it.
func (f *Folder) RenewAt(ctx context.Context) error {
	p, err := readFile(filepath.Join(f.path, RenewFile))
	if errors.Is(err, fs.ErrNotExist) {
		return model.Fail(model.NotFound, nil, "nobody is named who renews the certificate in %s", f.path).
			WithTry("understudy ca renew " + f.path + ", where the authority is")
	}
	if err != nil {
		return err
	}
	server := strings.TrimSpace(string(p))
	out, err := post(ctx, server, renewPath, f.Client(server, Server), nil)
	if err != nil {
		return err
	}
	list, err := ParseCertificates([]byte(out.Certificate))
	if err != nil {
		return err
	}
	m := f.current()
	leaf, err := m.verify([][]byte{list[0].Raw}, x509.ExtKeyUsageClientAuth, f.now())
	if err == nil {
		err = sameKey(leaf, m.leaf.PublicKey)
	}
	if err != nil {
		return model.Fail(model.Refused, err, "the renewed certificate cannot be used")
	}
	if id, _ := IdentityOf(leaf); id != m.identity {
		return model.Fail(model.Refused, nil, "the renewed certificate is of %s", id)
	}
	return replaceCertificate(f.path, []byte(out.Certificate))
}

// KeepFresh renews the folder's certificate until ctx ends, and says so when that fails.
func (f *Folder) KeepFresh(ctx context.Context, renew func(context.Context) error, log *slog.Logger) {
	for {
		wait := lookEvery
		if f.due() {
			if err := renew(ctx); err != nil && ctx.Err() == nil {
				log.Warn("certificate_not_renewed", "identity", f.Self().String(), "not_after", f.NotAfter().Format(time.RFC3339), "error", err)
				wait = renewAgain
			} else if err == nil {
				log.Info("certificate_renewed", "identity", f.Self().String(), "not_after", f.NotAfter().Format(time.RFC3339))
			}
		} else if left := f.dueAt().Sub(f.now()); left < wait {
			wait = max(left, time.Second)
		}
		if err := f.Err(); err != nil {
			log.Warn("certificates_not_read", "folder", f.path, "error", err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

func (f *Folder) dueAt() time.Time {
	leaf := f.current().leaf
	return leaf.NotAfter.Add(-leaf.NotAfter.Sub(leaf.NotBefore) / renewAtShare)
}

func (f *Folder) due() bool { return !f.now().Before(f.dueAt()) }

func post(ctx context.Context, server, path string, config *tls.Config, body []byte) (grantOut, error) {
	var out grantOut
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+server+path, bytes.NewReader(body))
	if err != nil {
		return out, model.Fail(model.InvalidArgument, nil, "%q is not the address of a server", server).WithTry("--server HOST:PORT")
	}
	r.Header.Set("Content-Type", "application/json")
	transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: true} // no proxy: the address is of our own site
	defer transport.CloseIdleConnections()
	answer, err := (&http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(r)
	if err != nil {
		return out, model.Fail(model.Unreachable, err, "%s does not answer as the server of this site", server).
			WithTry("understudy server --join-listen :7461 --ca-dir FOLDER")
	}
	defer answer.Body.Close()
	p, err := io.ReadAll(io.LimitReader(answer.Body, 64<<10))
	if err != nil {
		return out, model.Fail(model.Unreachable, err, "the answer of %s was cut off", server)
	}
	if answer.StatusCode != http.StatusOK {
		return out, model.Fail(model.Refused, nil, "%s says: %.200s", server, strings.TrimSpace(string(p)))
	}
	if err := json.Unmarshal(p, &out); err != nil {
		return out, model.Fail(model.Internal, err, "the answer of %s cannot be read", server)
	}
	return out, nil
}
