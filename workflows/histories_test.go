package workflows

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

// secretWords are names of fields that would hold a secret; secretForms what a secret looks like by itself.
var (
	secretWords = regexp.MustCompile(`(?i)passw|secret|credential|private_?key|bearer|token$|^xml$`)
	secretForms = regexp.MustCompile(`-----BEGIN|(?i:bearer )\S|://[^/@\s"]*:[^/@\s"]+@|<domain|eyJhbGciOi`)
	// Temporal's own: who polls a task.
	harmless = regexp.MustCompile(`^(taskToken|updateToken|resetToken)$`)
)

// What was really recorded, payloads decoded: no key, password, token, URL with credentials, or domain XML (which may hold VNC
// passwords) is in any history. The wire's shapes are watched by internal/contract.
func TestNoRecordedHistoryHoldsASecret(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(histories, "*.json.gz"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	payloads := 0
	for _, f := range files {
		_, text := readHistory(t, f)
		var history any
		require.NoError(t, json.Unmarshal([]byte(text), &history))
		n, found := searched("", history)
		require.Empty(t, found, filepath.Base(f))
		payloads += n
	}
	require.Greater(t, payloads, 300, "what travels is looked into")
}

// searched looks through a document, and through each payload in it; it returns how many of those there were, and where a
// secret seems to be.
func searched(at string, v any) (payloads int, found []string) {
	into := func(at string, v any) {
		n, more := searched(at, v)
		payloads, found = payloads+n, append(found, more...)
	}
	switch v := v.(type) {
	case map[string]any:
		for name, inner := range v {
			if text, ok := inner.(string); ok && text != "" && secretWords.MatchString(name) && !harmless.MatchString(name) {
				found = append(found, fmt.Sprintf("%s.%s holds %q", at, name, text))
			}
			into(at+"."+name, inner)
		}
	case []any:
		for i, inner := range v {
			into(fmt.Sprintf("%s[%d]", at, i), inner)
		}
	case string:
		raw, err := base64.StdEncoding.DecodeString(v)
		var document any
		if err == nil && json.Unmarshal(raw, &document) == nil {
			payloads++
			into(at+"(payload)", document)
		}
		if secretForms.MatchString(v) || err == nil && secretForms.Match(raw) {
			found = append(found, fmt.Sprintf("%s holds %.60q", at, v))
		}
	}
	return payloads, found
}

// The search finds what it is for.
func TestASecretInAPayloadIsFound(t *testing.T) {
	in := func(document string) []string {
		_, found := searched("", map[string]any{"taskToken": "abc", "data": base64.StdEncoding.EncodeToString([]byte(document))})
		return found
	}
	for _, document := range []string{
		`{"password":"x"}`, `{"a":[{"url":"smtp://u:p@host/"}]}`, `{"detail":"-----BEGIN PRIVATE KEY-----"}`, `{"why":"Bearer abc"}`, `{"n":"<domain type='kvm'>"}`,
	} {
		require.NotEmpty(t, in(document), document)
	}
	require.Empty(t, in(`{"vm":"db1","address":"10.0.0.1:7450"}`))
}
