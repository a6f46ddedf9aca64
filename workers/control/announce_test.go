package control

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The server is given another address: every protection learns it, once, and is not protected again for it.
func TestEveryProtectionLearnsWhereLeasesAreGranted(t *testing.T) {
	s := raise(t, false, func(o *Options) { o.LeaseListen = "127.0.0.1:0" })
	_, err := s.c.EnsureProtected(t.Context(), s.spec())
	require.NoError(t, err)
	grantor := func() string {
		d, err := s.c.Describe(t.Context(), vmUUID)
		if err != nil || d.State.Grantor == nil {
			return ""
		}
		return d.State.Grantor.Address
	}
	require.True(t, strings.HasPrefix(grantor(), "127.0.0.1:"))
	told := func(n int) {
		t.Helper()
		require.Eventually(t, func() bool { return strings.Count(s.log.String(), "grantor_announced") == n }, 60*time.Second, 50*time.Millisecond)
	}
	told(1)

	s.end()
	s.o.LeaseAdvertise = "elsewhere:7460"
	s.serve()
	told(2)
	require.Contains(t, s.log.String(), "msg=grantor_announced address=elsewhere:7460 protections=1")
	require.Eventually(t, func() bool { return grantor() == "elsewhere:7460" }, 60*time.Second, 100*time.Millisecond)

	s.end()
	s.serve()
	require.Never(t, func() bool { return strings.Count(s.log.String(), "grantor_announced") > 2 }, time.Second, 100*time.Millisecond, "who knows it is not told again")
}
