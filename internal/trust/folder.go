package trust

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// The files of a folder.
const (
	AuthorityFile   = "ca.crt" // one certificate or more: during a change of the authority both are trusted
	CertificateFile = "tls.crt"
	KeyFile         = "tls.key"
	DeniedFile      = "denied" // optional: a serial number or an identity a line that is trusted no longer
)

const maxFile = 1 << 20

// Folder holds what one process shows and trusts. Its files may be replaced at any time: each handshake looks.
type Folder struct {
	path string
	now  func() time.Time

	mu     sync.Mutex
	stamp  string
	kept   *material
	failed error // of the newest attempt to read again; kept stays in use
}

// material is the content of a folder at one moment.
type material struct {
	roots    *x509.CertPool
	roots0   []*x509.Certificate
	chain    tls.Certificate
	leaf     *x509.Certificate
	identity Identity
	denied   map[string]bool
}

// Open reads a folder and refuses one that could not be used: a key that others can read, or is of another certificate, a
// certificate that its own authority did not sign, or that has expired.
func Open(path string) (*Folder, error) {
	f := &Folder{path: path, now: time.Now}
	stamp, err := f.look()
	if err != nil {
		return nil, err
	}
	m, err := read(path)
	if err != nil {
		return nil, err
	}
	f.stamp, f.kept = stamp, m
	if _, err := m.verify(m.chain.Certificate, x509.ExtKeyUsageClientAuth, f.now()); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(path, CertificateFile), err)
	}
	return f, nil
}

// Path of the folder.
func (f *Folder) Path() string { return f.path }

// Self is whom this folder's certificate speaks for.
func (f *Folder) Self() Identity { return f.current().identity }

// NotAfter is when this folder's certificate ends.
func (f *Folder) NotAfter() time.Time { return f.current().leaf.NotAfter }

// NotBefore is when it began.
func (f *Folder) NotBefore() time.Time { return f.current().leaf.NotBefore }

// Err says why files that were replaced are not in use yet; nil when they are.
func (f *Folder) Err() error {
	f.current()
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed
}

// look tells by the files' names, times and sizes whether something was replaced.
func (f *Folder) look() (string, error) {
	var b strings.Builder
	for _, name := range []string{AuthorityFile, CertificateFile, KeyFile, DeniedFile} {
		info, err := os.Stat(filepath.Join(f.path, name))
		if name == DeniedFile && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "%s %d %d %v;", name, info.ModTime().UnixNano(), info.Size(), info.Mode())
	}
	return b.String(), nil
}

// current is what is in use. A half replaced folder is not: what was read before stays until the rest is there.
func (f *Folder) current() *material {
	f.mu.Lock()
	defer f.mu.Unlock()
	stamp, err := f.look()
	if err != nil {
		f.failed = err
		return f.kept
	}
	if stamp == f.stamp {
		return f.kept
	}
	m, err := read(f.path)
	if err != nil {
		f.failed = err
		return f.kept
	}
	f.stamp, f.kept, f.failed = stamp, m, nil
	return m
}

func read(path string) (*material, error) {
	authority, err := readFile(filepath.Join(path, AuthorityFile))
	if err != nil {
		return nil, err
	}
	m := &material{roots: x509.NewCertPool(), denied: map[string]bool{}}
	if m.roots0, err = ParseCertificates(authority); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(path, AuthorityFile), err)
	}
	for _, c := range m.roots0 {
		m.roots.AddCert(c)
	}
	keyPath := filepath.Join(path, KeyFile)
	info, err := os.Stat(keyPath)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others (mode %04o): chmod 0600 %s", keyPath, info.Mode().Perm(), keyPath)
	}
	key, err := readFile(keyPath)
	if err != nil {
		return nil, err
	}
	cert, err := readFile(filepath.Join(path, CertificateFile))
	if err != nil {
		return nil, err
	}
	if m.chain, err = tls.X509KeyPair(cert, key); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	m.leaf = m.chain.Leaf
	if m.identity, err = IdentityOf(m.leaf); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(path, CertificateFile), err)
	}
	denied, err := readFile(filepath.Join(path, DeniedFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for lines := bufio.NewScanner(bytes.NewReader(denied)); lines.Scan(); {
		if word, _, _ := strings.Cut(strings.TrimSpace(lines.Text()), " "); word != "" && word[0] != '#' {
			m.denied[strings.ToLower(word)] = true
		}
	}
	return m, nil
}

func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return b, err
}

// ParseCertificates reads PEM that holds certificates and nothing else.
func ParseCertificates(p []byte) ([]*x509.Certificate, error) {
	var list []*x509.Certificate
	for len(bytes.TrimSpace(p)) > 0 {
		var block *pem.Block
		if block, p = pem.Decode(p); block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("it holds something else than certificates")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	if len(list) == 0 {
		return nil, errors.New("it holds no certificate")
	}
	return list, nil
}

// Serial is how a certificate's number is written in the list of what is denied.
func Serial(c *x509.Certificate) string { return c.SerialNumber.Text(16) }

// verify checks a chain as it came over the wire: signed by our authority, in its time, for this use, not denied.
func (m *material) verify(raw [][]byte, usage x509.ExtKeyUsage, now time.Time) (*x509.Certificate, error) {
	if len(raw) == 0 {
		return nil, errors.New("no certificate was shown")
	}
	leaf, err := x509.ParseCertificate(raw[0])
	if err != nil {
		return nil, err
	}
	// The authority signs leaves itself: there is nothing in between.
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: m.roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
		return nil, err
	}
	return leaf, m.allowed(leaf, now)
}

func (m *material) allowed(c *x509.Certificate, now time.Time) error {
	if now.After(c.NotAfter) {
		return fmt.Errorf("the certificate %s expired at %s", Serial(c), c.NotAfter.Format(time.RFC3339))
	}
	id, err := IdentityOf(c)
	if err != nil {
		return err
	}
	if m.denied[Serial(c)] || m.denied[id.String()] {
		return fmt.Errorf("the certificate %s of %s is denied", Serial(c), id)
	}
	return nil
}

// Allowed says whether a certificate that was verified at a handshake may still be used: connections live long.
func (f *Folder) Allowed(c *x509.Certificate) error { return f.current().allowed(c, f.now()) }

// Client is for connections to address, which must show a certificate of one of these roles. A host's must also name the
// address, so that one host cannot answer for another; the server is recognized by its role alone, under whatever name it is reached.
func (f *Folder) Client(address string, accept ...Role) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		//nolint:gosec // VerifyConnection checks instead, by the authority's file of this moment
		InsecureSkipVerify: true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &f.current().chain, nil
		},
		VerifyConnection: func(cs tls.ConnectionState) error {
			leaf, err := f.current().verify(rawChain(cs), x509.ExtKeyUsageServerAuth, f.now())
			if err != nil {
				return err
			}
			id, err := roleOf(leaf, accept)
			if err != nil || id.Role == Server {
				return err
			}
			host, _, err := net.SplitHostPort(address)
			if err != nil {
				return err
			}
			if err := leaf.VerifyHostname(host); err != nil {
				return fmt.Errorf("%s answered at %s: %w", id, address, err)
			}
			return nil
		},
	}
}

// Server is for listeners that take connections of these roles only.
func (f *Folder) Server(accept ...Role) *tls.Config {
	return f.server(tls.RequireAndVerifyClientCert, nil, accept)
}

// Mixed is for listeners that take also clients without a certificate; who shows one has one of these roles. It speaks HTTP.
func (f *Folder) Mixed(accept ...Role) *tls.Config {
	return f.server(tls.VerifyClientCertIfGiven, nil, accept)
}

// server: chain follows the own certificate, for clients that do not know the authority yet.
func (f *Folder) server(auth tls.ClientAuthType, chain func(*material) [][]byte, accept []Role) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			m := f.current()
			own := m.chain
			if chain != nil {
				own.Certificate = append(slices.Clone(own.Certificate), chain(m)...)
			}
			protocol := "h2" // gRPC
			if auth == tls.VerifyClientCertIfGiven {
				protocol = "http/1.1"
			}
			return &tls.Config{
				MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{own}, ClientAuth: auth, ClientCAs: m.roots,
				NextProtos: []string{protocol},
				// Each connection proves itself: what was denied or has expired does not come back by a ticket.
				SessionTicketsDisabled: true,
				VerifyConnection: func(cs tls.ConnectionState) error {
					if len(cs.PeerCertificates) == 0 && auth == tls.VerifyClientCertIfGiven {
						return nil
					}
					leaf, err := m.verify(rawChain(cs), x509.ExtKeyUsageClientAuth, f.now())
					if err == nil {
						_, err = roleOf(leaf, accept)
					}
					return err
				},
			}, nil
		},
	}
}

// PeerOf is whom the other side of a connection speaks for, that was made by a configuration of this package.
func PeerOf(cs tls.ConnectionState) (Identity, error) {
	if len(cs.PeerCertificates) == 0 {
		return Identity{}, errors.New("no certificate was shown")
	}
	return IdentityOf(cs.PeerCertificates[0])
}

func roleOf(c *x509.Certificate, accept []Role) (Identity, error) {
	id, err := IdentityOf(c)
	if err == nil && !slices.Contains(accept, id.Role) {
		err = fmt.Errorf("%s is not trusted here, only %v", id, accept)
	}
	return id, err
}

func rawChain(cs tls.ConnectionState) [][]byte {
	raw := make([][]byte, len(cs.PeerCertificates))
	for i, c := range cs.PeerCertificates {
		raw[i] = c.Raw
	}
	return raw
}
