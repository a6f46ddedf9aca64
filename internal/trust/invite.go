package trust

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"understudy/internal/durable"
	"understudy/internal/model"
)

const (
	tokenPrefix  = "us1."
	secretSize   = 24
	tokensFolder = "tokens"
	maxExpiry    = 7 * 24 * time.Hour
)

// Token lets one host join: it names the authority, so that the host knows whom it speaks to, and proves to the server
// that somebody there wants the host.
type Token struct {
	Authority [sha256.Size]byte
	Secret    [secretSize]byte
}

func (t Token) String() string {
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(append(t.Authority[:], t.Secret[:]...))
}

// ParseToken reads what Invite gave.
func ParseToken(s string) (Token, error) {
	var t Token
	text, ok := strings.CutPrefix(strings.TrimSpace(s), tokenPrefix)
	p, err := base64.RawURLEncoding.DecodeString(text)
	if !ok || err != nil || len(p) != sha256.Size+secretSize {
		return t, model.Fail(model.InvalidArgument, nil, "this is no token: it must be copied whole").WithTry("understudy ca token HOST, on the server's machine")
	}
	copy(t.Authority[:], p)
	copy(t.Secret[:], p[sha256.Size:])
	return t, nil
}

// invitation is what the authority keeps of a token; the file is named by the digest of the secret.
type invitation struct {
	Host      string        `json:"host"`
	Addresses []string      `json:"addresses"`
	Valid     time.Duration `json:"valid_ns"`
	Expires   time.Time     `json:"expires"`
	// Key is the digest of the key that used the token: it may ask again, when the answer was lost, and no other can.
	Key string `json:"key,omitempty"`
}

func (a *Authority) invitationFile(secret []byte) string {
	sum := sha256.Sum256(secret)
	return filepath.Join(a.dir, tokensFolder, hex.EncodeToString(sum[:])+".json")
}

// Invite makes a token for one host.
func (a *Authority) Invite(w Wish, expires time.Duration) (Token, error) {
	t := Token{Authority: a.Fingerprint()}
	if err := w.Check(); err != nil {
		return t, err
	}
	if w.Identity.Role != Host {
		return t, model.Fail(model.InvalidArgument, nil, "only hosts join by a token")
	}
	if expires < time.Minute || expires > maxExpiry {
		return t, model.Fail(model.InvalidArgument, nil, "a token can be used for a minute at least and a week at most, not %s", expires)
	}
	if err := privateFolder(filepath.Join(a.dir, tokensFolder)); err != nil {
		return t, err
	}
	a.sweep()
	if _, err := rand.Read(t.Secret[:]); err != nil {
		return t, err
	}
	err := durable.WriteJSON(a.invitationFile(t.Secret[:]), invitation{
		Host: w.Identity.Name, Addresses: w.Addresses, Valid: w.Valid, Expires: a.now().Add(expires).UTC(),
	})
	if err != nil {
		return t, model.Fail(model.Internal, err, "the token cannot be kept")
	}
	return t, nil
}

// redeem grants a certificate for pub. Calls come one at a time.
func (a *Authority) redeem(secret []byte, pub crypto.PublicKey) ([]byte, Identity, error) {
	refused := model.Fail(model.Refused, nil, "the token is not known, has expired or was used by another key").WithTry("understudy ca token HOST, on the server's machine")
	path := a.invitationFile(secret)
	var in invitation
	if err := durable.ReadJSON(path, &in); err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, Identity{}, model.Fail(model.Internal, err, "the token cannot be looked up")
		}
		return nil, Identity{}, refused
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, Identity{}, err
	}
	sum := sha256.Sum256(der)
	key := hex.EncodeToString(sum[:])
	if a.now().After(in.Expires) || in.Key != "" && in.Key != key {
		return nil, Identity{}, refused
	}
	if in.Key == "" {
		in.Key = key
		if err := durable.WriteJSON(path, in); err != nil { // before the answer: a token that is used is used
			return nil, Identity{}, model.Fail(model.Internal, err, "the use of the token cannot be kept")
		}
	}
	id := Identity{Role: Host, Name: in.Host}
	cert, err := a.Issue(pub, Wish{Identity: id, Addresses: in.Addresses, Valid: in.Valid})
	return cert, id, err
}

// sweep removes what has expired; what cannot be removed is refused when it is used.
func (a *Authority) sweep() {
	list, _ := os.ReadDir(filepath.Join(a.dir, tokensFolder))
	for _, e := range list {
		var in invitation
		path := filepath.Join(a.dir, tokensFolder, e.Name())
		if err := durable.ReadJSON(path, &in); err == nil && a.now().After(in.Expires) {
			_ = os.Remove(path)
		}
	}
}

// Renew makes the certificate of a folder last longer, for the same key and names.
func (a *Authority) Renew(dir string) error {
	p, err := readFile(filepath.Join(dir, CertificateFile))
	if err != nil {
		return model.Fail(model.NotFound, err, "there is no certificate in %s", dir).WithTry("understudy ca issue --out " + dir)
	}
	list, err := ParseCertificates(p)
	if err != nil {
		return model.Fail(model.Refused, err, "the certificate in %s cannot be read", dir)
	}
	next, err := a.follow(list[0])
	if err != nil {
		return err
	}
	return replaceCertificate(dir, next)
}

// follow issues what comes after c. Only what this authority signed is followed.
func (a *Authority) follow(c *x509.Certificate) ([]byte, error) {
	if err := c.CheckSignatureFrom(a.cert); err != nil {
		return nil, model.Fail(model.Refused, err, "the certificate is not of this authority")
	}
	w, err := WishOf(c)
	if err != nil {
		return nil, err
	}
	return a.Issue(c.PublicKey, w)
}

func replaceCertificate(dir string, p []byte) error {
	if err := durable.WriteFile(filepath.Join(dir, CertificateFile), p); err != nil {
		return model.Fail(model.Internal, err, "the certificate cannot be written")
	}
	return nil
}
