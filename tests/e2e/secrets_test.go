package e2e

import (
	"bytes"
	"encoding/base64"
	"os"
	"path/filepath"

	"github.com/stretchr/testify/require"
)

// secretsAreNowhere looks for what must not be written: in the logs of all processes, and in the file that holds every history. The
// site's private keys, the fence device's password where it has one, and what the story calls secret.
func (s *story) secretsAreNowhere(secrets ...string) {
	s.t.Helper()
	for _, host := range []string{"control", hostA, hostB} {
		keys, err := filepath.Glob(filepath.Join(s.lab.Dir(), host, "understudy", "*", "*.key"))
		require.NoError(s.t, err)
		for _, k := range keys {
			b, err := os.ReadFile(k)
			require.NoError(s.t, err)
			body := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
			require.Greater(s.t, len(body), 2, k)
			secrets = append(secrets, string(body[1])) // base64 of the key
		}
	}
	require.NotEmpty(s.t, secrets)
	files := []string{}
	for _, pattern := range []string{"*/log/*.log", "control/understudy/server/temporal.db*", "control/understudy/server/records/*", "*/understudy/notified.json", "*/understudy/watch/*", "*/understudy/floors/*"} {
		found, err := filepath.Glob(filepath.Join(s.lab.Dir(), pattern))
		require.NoError(s.t, err)
		files = append(files, found...)
	}
	histories := 0
	for _, f := range files {
		b, err := os.ReadFile(f)
		if os.IsNotExist(err) {
			continue // a temporary one
		}
		require.NoError(s.t, err)
		if bytes.Contains(b, []byte("hostwatch/")) && filepath.Ext(f) != ".log" {
			histories++
		}
		for _, secret := range append(secrets, "PRIVATE KEY") {
			for _, form := range []string{secret, base64.StdEncoding.EncodeToString([]byte(secret))} {
				require.False(s.t, bytes.Contains(b, []byte(form)), "%s holds a secret that begins with %.4s", f, secret)
			}
		}
	}
	require.NotZero(s.t, histories, "the histories are looked at: %v", files)
}
