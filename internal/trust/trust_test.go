package trust

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// site is an authority with folders for whom a test needs.
type site struct {
	t  *testing.T
	ca *Authority
}

func newSite(t *testing.T) *site {
	ca, err := Init(filepath.Join(t.TempDir(), "ca"), "test", time.Now)
	require.NoError(t, err)
	return &site{t, ca}
}

func (s *site) folder(id Identity, addresses ...string) *Folder {
	dir := filepath.Join(s.t.TempDir(), "tls")
	require.NoError(s.t, s.ca.Grant(dir, Wish{Identity: id, Addresses: addresses, Valid: time.Hour}))
	f, err := Open(dir)
	require.NoError(s.t, err)
	return f
}

// shake connects a client to a server and returns whom each took the other for. The server writes one byte, because a
// client of TLS 1.3 hears only then that it was refused.
func shake(t *testing.T, client, server *tls.Config) (seenByServer Identity, clientErr, serverErr error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		raw, err := l.Accept()
		if err != nil {
			serverErr = err
			return
		}
		defer raw.Close()
		c := tls.Server(raw, server)
		if serverErr = c.Handshake(); serverErr == nil {
			seenByServer, serverErr = PeerOf(c.ConnectionState())
			_, _ = c.Write([]byte{1})
		}
	}()
	raw, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	c := tls.Client(raw, client)
	if clientErr = c.Handshake(); clientErr == nil {
		_, clientErr = c.Read(make([]byte, 1))
	}
	_ = c.Close()
	<-done
	return seenByServer, clientErr, serverErr
}

func host(name string) Identity { return Identity{Role: Host, Name: name} }

func TestHostsOfOneSiteTrustEachOther(t *testing.T) {
	s := newSite(t)
	a, b := s.folder(host("host-a")), s.folder(host("host-b"), "10.0.0.2")
	for _, address := range []string{"host-b:7450", "10.0.0.2:7450"} {
		seen, cErr, sErr := shake(t, a.Client(address, Host), b.Server(Host, Server))
		require.NoError(t, cErr)
		require.NoError(t, sErr)
		require.Equal(t, host("host-a"), seen)
	}
}

func TestOneHostCannotAnswerForAnother(t *testing.T) {
	s := newSite(t)
	a, c := s.folder(host("host-a")), s.folder(host("host-c"))
	_, cErr, _ := shake(t, a.Client("host-b:7450", Host), c.Server(Host))
	require.ErrorContains(t, cErr, "understudy://host/host-c answered at host-b:7450")
	_, cErr, _ = shake(t, a.Client("10.0.0.2:7450", Host), c.Server(Host))
	require.Error(t, cErr, "an address is checked like a name")
}

func TestTheServerIsKnownByItsRoleWhereverItIsReached(t *testing.T) {
	s := newSite(t)
	a, srv := s.folder(host("host-a")), s.folder(Identity{Role: Server})
	_, cErr, sErr := shake(t, a.Client("control.example.org:7233", Server), srv.Server(Host, Server, Operator))
	require.NoError(t, cErr)
	require.NoError(t, sErr)

	fake := s.folder(host("control.example.org"))
	_, cErr, _ = shake(t, a.Client("control.example.org:7233", Server), fake.Server(Host))
	require.ErrorContains(t, cErr, "is not trusted here")
}

func TestStrangersAreRefused(t *testing.T) {
	s, other := newSite(t), newSite(t)
	b := s.folder(host("host-b"))
	for name, client := range map[string]*tls.Config{
		"an operator where only hosts are taken": s.folder(Identity{Role: Operator, Name: "kim"}).Client("", Host),
		"a host of another site":                 other.folder(host("host-a")).Client("", Host),
		"nobody":                                 {InsecureSkipVerify: true},
		"a client of TLS 1.2": {
			InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12,
			GetClientCertificate: s.folder(host("host-a")).Client("").GetClientCertificate,
		},
	} {
		_, _, sErr := shake(t, client, b.Server(Host))
		require.Error(t, sErr, name)
	}
	// And the other way round: a false standby.
	a := s.folder(host("host-a"))
	_, cErr, _ := shake(t, a.Client("host-b:1", Host), other.folder(host("host-b")).Server(Host))
	require.Error(t, cErr)
}

func TestACertificateRotatesWithoutARestart(t *testing.T) {
	s := newSite(t)
	a, b := s.folder(host("host-a")), s.folder(host("host-b"))
	client, server := a.Client("host-b:1", Host), b.Server(Host)
	before := b.NotAfter()

	key, err := readKey(filepath.Join(b.Path(), KeyFile))
	require.NoError(t, err)
	next, err := s.ca.Issue(key.Public(), Wish{Identity: host("host-b"), Valid: 48 * time.Hour})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(b.Path(), CertificateFile), next, 0o600))

	var shown *x509.Certificate
	verify := client.VerifyConnection
	client.VerifyConnection = func(cs tls.ConnectionState) error { shown = cs.PeerCertificates[0]; return verify(cs) }
	_, cErr, _ := shake(t, client, server)
	require.NoError(t, cErr)
	require.True(t, shown.NotAfter.After(before.Add(time.Hour)), "the new certificate is shown")
	require.Equal(t, shown.NotAfter, b.NotAfter())

	// Half a rotation changes nothing and is told.
	require.NoError(t, os.WriteFile(filepath.Join(b.Path(), CertificateFile), []byte("half"), 0o600))
	_, cErr, _ = shake(t, client, server)
	require.NoError(t, cErr)
	require.Error(t, b.Err())
}

func TestDeniedAndExpiredCertificatesAreRefusedAtOnce(t *testing.T) {
	s := newSite(t)
	a, b := s.folder(host("host-a")), s.folder(host("host-b"))
	server := b.Server(Host)
	_, cErr, _ := shake(t, a.Client("host-b:1", Host), server)
	require.NoError(t, cErr)
	require.NoError(t, os.WriteFile(filepath.Join(b.Path(), DeniedFile), []byte("# stolen\nunderstudy://host/host-a  in May\n"), 0o600))
	_, _, sErr := shake(t, a.Client("host-b:1", Host), server)
	require.ErrorContains(t, sErr, "is denied")
	require.ErrorContains(t, b.Allowed(a.current().leaf), "is denied")

	require.NoError(t, os.Remove(filepath.Join(b.Path(), DeniedFile)))
	b.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	_, _, sErr = shake(t, a.Client("host-b:1", Host), server)
	require.ErrorContains(t, sErr, "expired")
	require.ErrorContains(t, b.Allowed(a.current().leaf), "expired")
}

func TestAFolderThatCouldNotBeUsedIsRefusedAtTheStart(t *testing.T) {
	s := newSite(t)
	f := s.folder(host("host-a"))
	key := filepath.Join(f.Path(), KeyFile)
	require.NoError(t, os.Chmod(key, 0o640))
	_, err := Open(f.Path())
	require.ErrorContains(t, err, "chmod 0600")
	require.NoError(t, os.Chmod(key, 0o600))

	stranger := newSite(t).folder(host("host-a"))
	require.NoError(t, os.Rename(filepath.Join(stranger.Path(), AuthorityFile), filepath.Join(f.Path(), AuthorityFile)))
	_, err = Open(f.Path())
	require.ErrorContains(t, err, "unknown authority")
}

func TestAnAuthorityIsMadeOnceAndItsKeyIsPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	_, err := Init(dir, "site", time.Now)
	require.NoError(t, err)
	for path, mode := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, authorityKeyFile): 0o600} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode().Perm(), path)
	}
	_, err = Init(dir, "site", time.Now)
	require.ErrorContains(t, err, "is there already")
	require.NoError(t, os.Chmod(filepath.Join(dir, authorityKeyFile), 0o644))
	_, err = OpenAuthority(dir, time.Now)
	require.ErrorContains(t, err, "can be read by others")
}

func TestWhatNoCertificateMaySayIsRefused(t *testing.T) {
	s := newSite(t)
	key, err := NewKey(t.TempDir())
	require.NoError(t, err)
	for name, w := range map[string]Wish{
		"a path as a host":         {Identity: host("../x"), Valid: time.Hour},
		"a named server":           {Identity: Identity{Role: Server, Name: "x"}, Valid: time.Hour},
		"an unknown role":          {Identity: Identity{Role: "root"}, Valid: time.Hour},
		"no time at all":           {Identity: host("a")},
		"for ever":                 {Identity: host("a"), Valid: 100 * 365 * 24 * time.Hour},
		"an address with a star":   {Identity: host("a"), Valid: time.Hour, Addresses: []string{"*"}},
		"an operator that listens": {Identity: Identity{Role: Operator, Name: "kim"}, Valid: time.Hour, Addresses: []string{"host-a"}},
	} {
		_, err := s.ca.Issue(key.Public(), w)
		require.Error(t, err, name)
	}
}

func TestARenewedCertificateSaysTheSame(t *testing.T) {
	s := newSite(t)
	for _, f := range []*Folder{s.folder(host("host-a"), "10.0.0.1", "a.example.org"), s.folder(Identity{Role: Server}, "control")} {
		w, err := WishOf(f.current().leaf)
		require.NoError(t, err)
		next, err := s.ca.Issue(f.current().leaf.PublicKey, w)
		require.NoError(t, err)
		list, err := ParseCertificates(next)
		require.NoError(t, err)
		require.Equal(t, f.current().leaf.DNSNames, list[0].DNSNames)
		require.Len(t, list[0].IPAddresses, len(f.current().leaf.IPAddresses))
		require.Equal(t, f.current().leaf.URIs, list[0].URIs)
		require.InDelta(t, time.Hour, w.Valid, float64(time.Second))
	}
}

func FuzzIdentityOf(f *testing.F) {
	f.Add([]byte("x"))
	f.Fuzz(func(_ *testing.T, der []byte) {
		if c, err := x509.ParseCertificate(der); err == nil {
			_, _ = IdentityOf(c)
		}
		_, _ = ParseCertificates(der)
		_, _ = ParseRequest(der)
	})
}
