package contract

import (
	"reflect"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

// What goes through Temporal stays in its histories, and people read them. A domain's XML may hold passwords (VNC, storage): it
// travels between agents only, and so does everything else that is secret.
func TestNothingSecretHasAPlaceInHistories(t *testing.T) {
	lines := map[string]bool{}
	for _, r := range roots() {
		describe(reflect.TypeOf(r), lines)
	}
	secret := regexp.MustCompile(`(?i)xml|passw|secret|credential|private|token`)
	for l := range lines {
		require.NotRegexp(t, secret, l)
	}
}
