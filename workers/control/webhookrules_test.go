package control

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
)

func judged(t *testing.T, h *webhook, decode func([]byte) ([]signalReport, error), body string) []string {
	t.Helper()
	reports, err := decode([]byte(body))
	require.NoError(t, err)
	var out []string
	for _, r := range reports {
		out = append(out, h.judge(context.Background(), r).Outcome)
	}
	return out
}

func TestOnlyAlertsThatTheRulesWantCount(t *testing.T) {
	p := &playedPlane{generation: 1}
	o := WebhookOptions{Listen: "127.0.0.1:0", VMLabel: "understudy_vm", Match: []string{"alertname=InstanceDown", "site=berlin"}}
	require.NoError(t, o.validate())
	h, err := newWebhook(o, p, t.TempDir(), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	body := `{"alerts":[
	{"status":"firing","fingerprint":"a","labels":{"alertname":"InstanceDown","understudy_vm":"db1","site":"berlin"}},
	{"status":"firing","fingerprint":"b","labels":{"alertname":"InstanceDown","understudy_vm":"db1","site":"paris"}},
	{"status":"firing","fingerprint":"c","labels":{"alertname":"DiskFull","understudy_vm":"db1","site":"berlin"}},
	{"status":"firing","fingerprint":"d","labels":{"alertname":"InstanceDown","understudy_vm":"db1"}}]}`
	require.Equal(t, []string{"signalled", "ignored", "ignored", "ignored"}, judged(t, h, alertmanager(o.VMLabel, h.rules), body))
	require.Len(t, p.crashes, 1)
	for _, bad := range [][]string{{"severity"}, {"=x"}, {"severity="}, {"site=a", "site=b"}} {
		o.Match = bad
		require.Error(t, o.validate(), bad)
	}
}

func TestAScriptThatRepeatsItselfSignalsOncePerIncident(t *testing.T) {
	p, dir := &playedPlane{generation: 1}, t.TempDir()
	open := func() *webhook {
		h, err := newWebhook(WebhookOptions{VMLabel: "understudy_vm"}, p, dir, slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		return h
	}
	h := open()
	say := func(id string) []string {
		return judged(t, h, plain, `{"vm":"db1","reason":"no ping","id":"`+id+`"}`)
	}
	require.Equal(t, []string{"signalled"}, say("7"))
	require.Equal(t, []string{"repeat"}, say("7"))
	h = open() // the server was restarted
	require.Equal(t, []string{"repeat"}, say("7"))
	require.Equal(t, []string{"signalled"}, say("8"))
	_, err := plain([]byte(`{"vm":"db1","reason":"x","id":"` + string(make([]byte, maxID+1)) + `"}`))
	require.Error(t, err)
}

func TestAMonitorGoneMadSignalsAVMThreeTimes(t *testing.T) {
	p := &playedPlane{generation: 1}
	h, err := newWebhook(WebhookOptions{VMLabel: "understudy_vm"}, p, t.TempDir(), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	var got []string
	for i := range 5 {
		got = append(got, judged(t, h, plain, fmt.Sprintf(`{"vm":"db1","reason":"no ping","id":"%d"}`, i))...)
	}
	require.Equal(t, []string{"signalled", "signalled", "signalled", "limited", "limited"}, got)
	require.Len(t, p.crashes, vmSignals)
	require.Equal(t, []string{"repeat"}, judged(t, h, plain, `{"vm":"db1","reason":"no ping","id":"1"}`), "a repeat costs nothing")
}
