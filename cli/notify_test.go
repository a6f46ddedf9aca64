package cli

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestATestMessageIsSentToEachReceiverOfTheFile(t *testing.T) {
	got := make(chan string, 10)
	page := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- string(b)
	}))
	defer page.Close()
	file := filepath.Join(t.TempDir(), "notify")
	write := func(lines ...string) {
		require.NoError(t, os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600))
	}
	write("# chat", page.URL+"/T0KEN")
	d := sit(t)
	require.Zero(t, d.run("notify", "test", "--notify-file", file), d.stderr.String())
	require.Contains(t, <-got, "nothing is wrong")
	require.Contains(t, d.stdout.String(), page.URL)
	require.Contains(t, d.stdout.String(), "delivered")

	write(page.URL+"/T0KEN", "smtp://ops:correct-horse@127.0.0.1:1/?from=a@example.org&to=b@example.org")
	d = sit(t)
	require.Equal(t, exitFailed, d.run("notify", "test", "--notify-file", file, "--output", "json"))
	require.Contains(t, d.stdout.String(), `"receiver": "smtp://127.0.0.1:1"`)
	require.Contains(t, d.stderr.String(), "1 of 2 receivers did not take the message")
	for _, secret := range []string{"correct-horse", "T0KEN"} {
		require.NotContains(t, d.stdout.String()+d.stderr.String(), secret)
	}
}

func TestNoReceiverIsAQuestionOfUsage(t *testing.T) {
	d := sit(t)
	require.Equal(t, exitUsage, d.run("notify", "test", "--notify-file", filepath.Join(t.TempDir(), "none")))
	require.Contains(t, d.stderr.String(), "there is no receiver")
	d = sit(t)
	require.Equal(t, exitUsage, d.run("notify"))
	require.Contains(t, d.stderr.String(), "understudy notify test")
	d = sit(t)
	require.Equal(t, exitUsage, d.run("notify", "test", "--notify", "ftp://host/"))
}
