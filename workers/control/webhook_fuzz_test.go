package control

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzWebhookBodies(f *testing.F) {
	for _, seed := range []string{
		`{"alerts":[{"status":"firing","fingerprint":"a","labels":{"alertname":"X","understudy_vm":"db1"},"annotations":{"summary":"s"},"startsAt":"2026-03-01T12:00:00Z"}]}`,
		`{"vm":"db1","reason":"no ping"}`, `{"alerts":null}`, `{"alerts":[null]}`, `[]`, `{"vm":1}`,
	} {
		f.Add([]byte(seed))
	}
	decode := alertmanager("understudy_vm", nil)
	f.Fuzz(func(t *testing.T, p []byte) {
		if reports, err := decode(p); err == nil {
			for _, r := range reports {
				require.Equal(t, "alertmanager", r.source)
			}
		}
		if reports, err := plain(p); err == nil {
			require.Len(t, reports, 1)
			require.NotEmpty(t, reports[0].vm)
		}
	})
}
