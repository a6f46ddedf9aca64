package control

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/trust"
)

func TestAnOperatorsCertificateIsAsGoodAsTheToken(t *testing.T) {
	dir := t.TempDir()
	ca, err := trust.Init(filepath.Join(dir, "ca"), "test", time.Now)
	require.NoError(t, err)
	issue := func(id trust.Identity) *trust.Folder {
		at := filepath.Join(dir, string(id.Role))
		require.NoError(t, ca.Grant(at, trust.Wish{Identity: id, Valid: time.Hour}))
		f, err := trust.Open(at)
		require.NoError(t, err)
		return f
	}
	p := &playedPlane{generation: 1}
	o := WebhookOptions{Listen: fmt.Sprintf("127.0.0.1:%d", anyPort(t)), VMLabel: "understudy_vm", TLS: true, Secure: issue(trust.Identity{Role: trust.Server})}
	require.NoError(t, o.validate())
	h, err := newWebhook(o, p, dir, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	stop, err := h.listen()
	require.NoError(t, err)
	defer stop()
	say := func(c *tls.Config) (int, error) {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: c, DisableKeepAlives: true}}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+o.Listen+"/webhook/crash", strings.NewReader(`{"vm":"db1","reason":"no ping"}`))
		require.NoError(t, err)
		r.Header.Set("Content-Type", "application/json")
		answer, err := client.Do(r)
		if err != nil {
			return 0, err
		}
		return answer.StatusCode, answer.Body.Close()
	}
	status, err := say(issue(trust.Identity{Role: trust.Operator, Name: "alertmanager"}).Client("", trust.Server))
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
	require.Len(t, p.crashes, 1)

	status, err = say(&tls.Config{InsecureSkipVerify: true})
	require.NoError(t, err)
	require.Equal(t, http.StatusUnauthorized, status)
	_, err = say(issue(trust.Identity{Role: trust.Host, Name: "host-a"}).Client("", trust.Server))
	require.Error(t, err)
	require.Len(t, p.crashes, 1)
}
