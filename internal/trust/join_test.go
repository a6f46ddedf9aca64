package trust

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/model"
)

// desk serves the authority of s like `understudy server --join-listen`.
func (s *site) desk() (address string, folder *Folder) {
	folder = s.folder(Identity{Role: Server})
	d := NewDesk(s.ca, folder, slog.New(slog.DiscardHandler))
	srv := httptest.NewUnstartedServer(d.Routes())
	srv.TLS = d.TLS()
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.StartTLS()
	s.t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "https://"), folder
}

func (s *site) invite(name string) string {
	t, err := s.ca.Invite(Wish{Identity: host(name), Addresses: []string{"10.0.0.9"}, Valid: time.Hour}, time.Hour)
	require.NoError(s.t, err)
	return t.String()
}

func TestAHostJoinsByATokenAndRenewsByItsCertificate(t *testing.T) {
	s := newSite(t)
	address, _ := s.desk()
	dir := filepath.Join(t.TempDir(), "tls")
	id, err := Join(t.Context(), address, s.invite("host-a"), dir)
	require.NoError(t, err)
	require.Equal(t, host("host-a"), id)

	f, err := Open(dir)
	require.NoError(t, err)
	b := s.folder(host("host-b"))
	_, cErr, sErr := shake(t, b.Client("10.0.0.9:1", Host), f.Server(Host))
	require.NoError(t, cErr)
	require.NoError(t, sErr)

	serial := Serial(f.current().leaf)
	require.NoError(t, f.RenewAt(t.Context()))
	require.NotEqual(t, serial, Serial(f.current().leaf))
	require.Equal(t, id, f.Self())
}

func TestATokenIsGoodForOneKeyOnly(t *testing.T) {
	s := newSite(t)
	address, _ := s.desk()
	token := s.invite("host-a")
	first := filepath.Join(t.TempDir(), "tls")
	_, err := Join(t.Context(), address, token, first)
	require.NoError(t, err)

	_, err = Join(t.Context(), address, token, filepath.Join(t.TempDir(), "thief"))
	require.Equal(t, model.Refused, model.KindOf(err))

	// The answer was lost: the same host asks again with the same key.
	require.NoError(t, os.Remove(filepath.Join(first, CertificateFile)))
	_, err = Join(t.Context(), address, token, first)
	require.NoError(t, err)
}

func TestTokensExpireAndNoneIsKeptInTheClear(t *testing.T) {
	s := newSite(t)
	address, _ := s.desk()
	token := s.invite("host-a")
	parsed, err := ParseToken(token)
	require.NoError(t, err)
	files, err := filepath.Glob(filepath.Join(s.ca.dir, tokensFolder, "*"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	kept, err := os.ReadFile(files[0])
	require.NoError(t, err)
	secret := base64.RawURLEncoding.EncodeToString(parsed.Secret[:])
	require.NotContains(t, files[0]+string(kept), secret)

	s.ca.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	_, err = Join(t.Context(), address, token, filepath.Join(t.TempDir(), "late"))
	require.Equal(t, model.Refused, model.KindOf(err))
}

// Who answers for the server without the authority's key learns no secret: the handshake ends before it is sent.
func TestAFalseServerIsNoticedBeforeTheSecretIsSent(t *testing.T) {
	s, evil := newSite(t), newSite(t)
	asked := false
	d := NewDesk(evil.ca, evil.folder(Identity{Role: Server}), slog.New(slog.DiscardHandler))
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	srv.TLS = d.TLS()
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.StartTLS()
	defer srv.Close()
	_, err := Join(t.Context(), strings.TrimPrefix(srv.URL, "https://"), s.invite("host-a"), filepath.Join(t.TempDir(), "tls"))
	require.ErrorContains(t, err, "does not answer as the server of this site")
	require.False(t, asked)
}

func TestTheDeskRefusesWhatItDoesNotKnow(t *testing.T) {
	s := newSite(t)
	address, folder := s.desk()
	stranger := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer stranger.CloseIdleConnections()
	say := func(path, body string) (int, string) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+address+path, strings.NewReader(body))
		require.NoError(t, err)
		a, err := stranger.Do(r)
		require.NoError(t, err)
		defer a.Body.Close()
		p, err := io.ReadAll(a.Body)
		require.NoError(t, err)
		return a.StatusCode, string(p)
	}
	status, _ := say(renewPath, "")
	require.Equal(t, http.StatusUnauthorized, status)
	status, _ = say(joinPath, "{")
	require.Equal(t, http.StatusBadRequest, status)
	status, _ = say(joinPath, `{"secret":"`+strings.Repeat("A", maxAsked)+`"}`)
	require.Equal(t, http.StatusBadRequest, status)

	key, err := NewKey(t.TempDir())
	require.NoError(t, err)
	request, err := Request(key)
	require.NoError(t, err)
	guess, err := json.Marshal(joinIn{Secret: base64.RawURLEncoding.EncodeToString(make([]byte, secretSize)), Request: string(request)})
	require.NoError(t, err)
	limited := false
	for range 20 {
		status, _ = say(joinPath, string(guess))
		require.Contains(t, []int{http.StatusForbidden, http.StatusServiceUnavailable}, status)
		limited = limited || status == http.StatusServiceUnavailable
	}
	require.True(t, limited, "guesses are slowed down")

	// A denied host is not renewed either.
	a := s.folder(host("host-a"))
	require.NoError(t, os.WriteFile(filepath.Join(a.Path(), RenewFile), []byte(address), 0o600))
	require.NoError(t, a.RenewAt(t.Context()))
	require.NoError(t, os.WriteFile(filepath.Join(folder.Path(), DeniedFile), []byte("understudy://host/host-a\n"), 0o600))
	require.Error(t, a.RenewAt(t.Context()))
}

func TestACertificateIsRenewedWhenAThirdIsLeft(t *testing.T) {
	s := newSite(t)
	f := s.folder(host("host-a")) // one hour, and an hour before now for clocks that differ
	ctx, cancel := context.WithCancel(t.Context())
	renewed := false
	f.now = func() time.Time { return time.Now().Add(50 * time.Minute) }
	var out bytes.Buffer
	f.KeepFresh(ctx, func(context.Context) error { renewed = true; cancel(); return s.ca.Renew(f.Path()) }, slog.New(slog.NewTextHandler(&out, nil)))
	require.True(t, renewed)
	require.Contains(t, out.String(), "certificate_renewed")

	fresh := s.folder(host("host-b"))
	require.False(t, fresh.due())
}

func FuzzParseToken(f *testing.F) {
	f.Add("us1.x")
	f.Add(Token{}.String())
	f.Fuzz(func(t *testing.T, s string) {
		if token, err := ParseToken(s); err == nil {
			require.Equal(t, strings.TrimSpace(s), token.String())
		}
	})
}
