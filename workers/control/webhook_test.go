package control

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/model"
)

type playedPlane struct {
	generation model.Generation
	err        error
	crashes    []contract.CrashIn
}

func (p *playedPlane) Find(_ context.Context, vm string) (contract.DescribeOut, error) {
	if vm != "db1" {
		return contract.DescribeOut{}, model.Fail(model.NotFound, nil, "it is not protected")
	}
	return contract.DescribeOut{Spec: contract.ProtectSpec{VM: model.VMRef{Name: "db1", UUID: vmUUID}}, State: contract.ProtectState{Generation: p.generation}}, nil
}

func (p *playedPlane) Crash(_ context.Context, _ string, in contract.CrashIn) error {
	if p.err == nil {
		p.crashes = append(p.crashes, in)
	}
	return p.err
}

func alertJSON(status, vm, print string) string {
	return `{"status":"` + status + `","labels":{"alertname":"InstanceDown","understudy_vm":"` + vm + `"},"annotations":{"summary":"db1 is down"},
	"startsAt":"2026-03-01T10:00:00.123Z","endsAt":"0001-01-01T00:00:00Z","generatorURL":"http://p/graph","fingerprint":"` + print + `"}`
}

func group(alerts ...string) string {
	return `{"version":"4","groupKey":"{}:{alertname=\"InstanceDown\"}","truncatedAlerts":0,"status":"firing","receiver":"understudy","groupLabels":{},
	"commonLabels":{},"commonAnnotations":{},"externalURL":"http://am","alerts":[` + strings.Join(alerts, ",") + `]}`
}

func TestMonitoringSignalsOnceAndNeverOnResolved(t *testing.T) {
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	require.NoError(t, os.WriteFile(token, []byte("secret\n"), 0o600))
	p := &playedPlane{generation: 1}
	o := WebhookOptions{Listen: "127.0.0.1:0", TokenFile: token, VMLabel: "understudy_vm"}
	open := func() *webhook {
		h, err := newWebhook(o, p, dir, slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		return h
	}
	h := open()
	post := func(path, bearer, body string) (int, []string) {
		r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", "Bearer "+bearer)
		w := httptest.NewRecorder()
		h.routes().ServeHTTP(w, r)
		var a answer
		require.NoError(t, json.NewDecoder(w.Body).Decode(&a))
		var outcomes []string
		for _, v := range a.Alerts {
			outcomes = append(outcomes, v.Outcome)
		}
		return w.Code, outcomes
	}
	am := "/webhook/alertmanager"
	firing := group(alertJSON("firing", "db1", "f1"))
	is := func(code int, signals int, path, bearer, body string, want ...string) {
		t.Helper()
		got, outcomes := post(path, bearer, body)
		require.Equal(t, code, got)
		require.Equal(t, want, outcomes)
		require.Len(t, p.crashes, signals)
	}
	is(http.StatusUnauthorized, 0, am, "wrong", firing)
	is(http.StatusBadRequest, 0, am, "secret", `{"vm":"db1"}`)
	is(http.StatusRequestEntityTooLarge, 0, am, "secret", strings.Repeat(" ", maxWebhookBody+1))
	is(http.StatusOK, 0, am, "secret", group(alertJSON("resolved", "db1", "f1"), alertJSON("firing", "nosuch", "f2"), alertJSON("firing", "", "f3")), "resolved", "unknown_vm", "ignored")
	h.o.DryRun = true
	is(http.StatusOK, 0, am, "secret", firing, "would_signal")
	h.o.DryRun = false
	p.err = model.Fail(model.Unreachable, nil, "gone")
	is(http.StatusServiceUnavailable, 0, am, "secret", firing, "failed")
	p.err = nil
	is(http.StatusOK, 1, am, "secret", group(alertJSON("firing", "db1", "f1"), alertJSON("firing", "db1", "f1")), "signalled", "repeat")
	h = open() // the server was restarted
	is(http.StatusOK, 1, am, "secret", firing, "repeat")
	is(http.StatusOK, 2, "/webhook/crash", "secret", `{"vm":"db1","reason":"no ping"}`, "signalled")
	require.Equal(t, contract.CrashIn{Source: "webhook", Reason: "no ping"}, p.crashes[1])
	// The reply to a signal was lost, and the failover it led to has happened.
	require.NoError(t, h.seen.note(vmUUID+"/f9@2026-03-01T10:00:00.123Z", 1, false))
	p.generation = 2
	is(http.StatusOK, 2, am, "secret", group(alertJSON("firing", "db1", "f9")), "superseded")
}

func TestAWebhookThatOthersReachNeedsAToken(t *testing.T) {
	for listen, ok := range map[string]bool{"": true, "127.0.0.1:1": true, "[::1]:1": true, "localhost:1": true, ":1": false, "0.0.0.0:1": false, "10.0.0.1:1": false, "x": false} {
		err := WebhookOptions{Listen: listen, VMLabel: "understudy_vm"}.validate()
		require.Equal(t, ok, err == nil, listen)
	}
}
