package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/deploy/lab/labkit"
)

const exitUnreachable = 20

// The lab's services speak with certificates, so the other stories run over them; this one looks at who is kept out, how a
// host comes in, and that a certificate that is replaced or denied counts at once.
func TestNobodyGetsInWithoutACertificateAndAHostGetsItsOwnByAToken(t *testing.T) {
	if why := cannotRun(); why != "" {
		t.Skip(why)
	}
	root, err := labkit.FindRoot()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	s := &story{t: t, ctx: ctx, lab: labkit.Open(root, labName)}
	s.hostsUp()
	understudy := s.lab.Binary("understudy")
	fails := func(code int, says, host, script string) {
		t.Helper()
		_, err := s.lab.Exec(ctx, host, "sh", "-c", script)
		require.Equal(t, code, exitCode(err), "%v", err)
		require.ErrorContains(t, err, says)
	}
	s.cli("hosts") // by the operator's certificate, which lab exec gives
	fails(exitUnreachable, "does not answer", hostB, "UNDERSTUDY_TLS_DIR= "+understudy+" hosts")
	fails(exitUnsafe, "the certificate in use may not do this", hostB, "UNDERSTUDY_TLS_DIR=/var/lib/understudy/tls "+understudy+" hosts")

	// A token makes one host, once.
	token := strings.TrimSpace(s.cli("ca", "token", "--ca-dir", "/var/lib/understudy/ca", "newcomer"))
	join := understudy + " join --server control:7461 --token " + token + " --tls-dir /run/"
	require.Contains(t, s.exec(hostB, join+"newcomer"), "understudy://host/newcomer")
	fails(exitUnsafe, "was used by another key", hostA, join+"thief")
	require.Equal(t, "-rw-------", s.exec(hostB, "stat -c %A /run/newcomer/tls.key | tr -d '\\n'"))

	// Denied on the server, it is out, although it is still in its time.
	s.exec("control", "echo understudy://host/newcomer >/var/lib/understudy/tls/denied")
	t.Cleanup(func() {
		late, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		_, err := s.lab.Exec(late, "control", "rm", "-f", "/var/lib/understudy/tls/denied")
		require.NoError(t, err)
	})
	fails(exitUnreachable, "does not answer", hostB, "UNDERSTUDY_TLS_DIR=/run/newcomer "+understudy+" hosts")

	// The agents' certificates are replaced under them, and doctor still finds every receiver.
	for _, h := range []string{hostA, hostB} {
		s.cli("ca", "renew", "--ca-dir", "/var/lib/understudy/ca", s.lab.Dir()+"/"+h+"/understudy/tls")
	}
	require.Contains(t, s.cli("doctor"), "understudy://host/host-a, ")
}
