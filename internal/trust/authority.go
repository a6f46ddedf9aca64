package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"understudy/internal/durable"
	"understudy/internal/model"
)

const (
	authorityKeyFile = "ca.key"
	authorityValid   = 10 * 365 * 24 * time.Hour
	// DefaultValid is how long a certificate lasts; renewal begins when a third is left.
	DefaultValid = 90 * 24 * time.Hour
	maxValid     = 3 * 365 * 24 * time.Hour
	maxAddresses = 16
	skew         = time.Hour // clocks of hosts that join differ
)

// addressPattern is what DNS allows, in lower case.
var addressPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)

// Authority signs certificates. Who can read its key can be anybody.
type Authority struct {
	dir  string
	cert *x509.Certificate
	key  crypto.Signer
	now  func() time.Time
}

// Init makes an authority in a folder that has none.
func Init(dir, site string, now func() time.Time) (*Authority, error) {
	if site == "" || len(site) > 64 {
		return nil, model.Fail(model.InvalidArgument, nil, "the name of the site must have 1 to 64 characters")
	}
	if err := privateFolder(dir); err != nil {
		return nil, err
	}
	for _, name := range []string{authorityKeyFile, AuthorityFile} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return nil, model.Fail(model.Conflict, err, "%s is there already: a new authority would make every certificate worthless", filepath.Join(dir, name)).
				WithTry("understudy ca show --ca-dir " + dir)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "Understudy authority of " + site, Organization: []string{"Understudy"}},
		NotBefore: now().Add(-skew), NotAfter: now().Add(authorityValid), IsCA: true, BasicConstraintsValid: true,
		MaxPathLen: 0, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	// The key first: a certificate without its key would look like an authority that lost it.
	if err := writeKey(filepath.Join(dir, authorityKeyFile), key); err != nil {
		return nil, err
	}
	if err := durable.WriteFile(filepath.Join(dir, AuthorityFile), EncodeCertificate(der)); err != nil {
		return nil, err
	}
	return OpenAuthority(dir, now)
}

// OpenAuthority reads one that Init made.
func OpenAuthority(dir string, now func() time.Time) (*Authority, error) {
	try := "understudy ca init --ca-dir " + dir
	p, err := readFile(filepath.Join(dir, AuthorityFile))
	if err != nil {
		return nil, model.Fail(model.NotFound, err, "there is no authority in %s", dir).WithTry(try)
	}
	list, err := ParseCertificates(p)
	if err != nil {
		return nil, model.Fail(model.Refused, err, "%s is damaged", filepath.Join(dir, AuthorityFile))
	}
	key, err := readKey(filepath.Join(dir, authorityKeyFile))
	if err != nil {
		return nil, err
	}
	a := &Authority{dir: dir, cert: list[0], key: key, now: now}
	if pub, ok := a.cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(key.Public()) {
		return nil, model.Fail(model.Refused, nil, "the key in %s is not that of the certificate beside it", dir)
	}
	return a, nil
}

// Certificate of the authority, as PEM.
func (a *Authority) Certificate() []byte { return EncodeCertificate(a.cert.Raw) }

// Cert of the authority.
func (a *Authority) Cert() *x509.Certificate { return a.cert }

// Fingerprint names the authority's certificate.
func (a *Authority) Fingerprint() [sha256.Size]byte { return sha256.Sum256(a.cert.Raw) }

// Wish is what a certificate shall say.
type Wish struct {
	Identity  Identity
	Addresses []string // names and IP addresses at which the host or server is reached, beside its own name
	Valid     time.Duration
}

// Check refuses a wish that cannot be granted.
func (w Wish) Check() error {
	if err := w.Identity.Validate(); err != nil {
		return model.Fail(model.InvalidArgument, nil, "%s", err.Error())
	}
	if w.Valid < time.Minute || w.Valid > maxValid {
		return model.Fail(model.InvalidArgument, nil, "a certificate lasts a minute at least and three years at most, not %s", w.Valid)
	}
	if len(w.Addresses) > maxAddresses {
		return model.Fail(model.InvalidArgument, nil, "%d addresses are too many: %d at most", len(w.Addresses), maxAddresses)
	}
	if w.Identity.Role == Operator && len(w.Addresses) > 0 {
		return model.Fail(model.InvalidArgument, nil, "nobody connects to an operator: it has no address")
	}
	for _, s := range w.Addresses {
		if net.ParseIP(s) == nil && (len(s) > 253 || !addressPattern.MatchString(s)) {
			return model.Fail(model.InvalidArgument, nil, "%q is neither a host name in lower case nor an IP address", s)
		}
	}
	return nil
}

// Issue signs a certificate for the holder of pub and returns it as PEM.
func (a *Authority) Issue(pub crypto.PublicKey, w Wish) ([]byte, error) {
	if err := w.Check(); err != nil {
		return nil, err
	}
	if err := checkPublic(pub); err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := a.now()
	t := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: w.Identity.String(), Organization: []string{"Understudy"}, OrganizationalUnit: []string{string(w.Identity.Role)}},
		NotBefore:    now.Add(-skew), NotAfter: now.Add(w.Valid), KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	t.URIs = append(t.URIs, w.Identity.URI())
	names := w.Addresses
	switch w.Identity.Role {
	case Host:
		names = append([]string{w.Identity.Name}, names...)
	case Server: // its own parts reach each other by loopback
		names = append([]string{"localhost", "127.0.0.1", "::1"}, names...)
	case Operator:
	}
	if w.Identity.Role != Operator {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, s := range names {
		if ip := net.ParseIP(s); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, s)
		}
	}
	if t.NotAfter.After(a.cert.NotAfter) {
		t.NotAfter = a.cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, pub, a.key)
	if err != nil {
		return nil, err
	}
	return EncodeCertificate(der), nil
}

// WishOf is what c says, for a certificate that follows it.
func WishOf(c *x509.Certificate) (Wish, error) {
	id, err := IdentityOf(c)
	if err != nil {
		return Wish{}, err
	}
	w := Wish{Identity: id, Valid: c.NotAfter.Sub(c.NotBefore) - skew}
	own := map[string]bool{id.Name: true}
	if id.Role == Server {
		own = map[string]bool{"localhost": true, "127.0.0.1": true, "::1": true}
	}
	for _, ip := range c.IPAddresses {
		if !own[ip.String()] {
			w.Addresses = append(w.Addresses, ip.String())
		}
	}
	for _, name := range c.DNSNames {
		if !own[name] {
			w.Addresses = append(w.Addresses, name)
		}
	}
	return w, nil
}

// Grant makes a folder with a new key: what one process shows and trusts.
func (a *Authority) Grant(dir string, w Wish) error {
	if err := w.Check(); err != nil {
		return err
	}
	if err := privateFolder(dir); err != nil {
		return err
	}
	key, err := NewKey(dir)
	if err != nil {
		return err
	}
	cert, err := a.Issue(key.Public(), w)
	if err != nil {
		return err
	}
	return Install(dir, a.Certificate(), cert)
}

// checkPublic takes the kinds of key that this package makes, and Ed25519.
func checkPublic(pub crypto.PublicKey) error {
	p, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil || len(p) > 128 {
		return model.Fail(model.InvalidArgument, err, "this kind of key is not taken: ECDSA on P-256 or Ed25519")
	}
	return nil
}

func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}

// EncodeCertificate makes PEM.
func EncodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
