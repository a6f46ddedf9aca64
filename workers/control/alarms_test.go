package control

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/notify"
)

// A server whose Temporal is away has no worker. That it has none is told all the same.
func TestAServerTellsThatItsTemporalIsAway(t *testing.T) {
	got := make(chan string, 100)
	page := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var d struct {
			Process       string
			Notifications []struct{ Name, State, Why, Try string }
		}
		_ = json.NewDecoder(r.Body).Decode(&d)
		for _, n := range d.Notifications {
			got <- d.Process + " " + n.State + " " + n.Name
		}
	}))
	defer page.Close()
	dir, began := t.TempDir(), time.Now()
	to, err := notify.Open([]string{page.URL})
	require.NoError(t, err)
	desk := notify.NewDesk(to, notify.Options{
		Source: notify.Source{Process: "server"}, File: filepath.Join(dir, "notified.json"), Repeat: 24 * time.Hour, Log: slog.New(slog.DiscardHandler),
		Now: func() time.Time { return began.Add(20 * time.Since(began)) }, // so long is a Temporal given that starts
	})
	s := &server{o: Options{DataDir: dir}, desk: desk, log: slog.New(slog.DiscardHandler)}
	s.health.notified = desk.Facts
	defer s.tell(t.Context())()
	select {
	case text := <-got:
		require.Equal(t, "server firing ControlPlaneDown", text)
	case <-time.After(3 * time.Minute):
		require.Fail(t, "nothing was told")
	}
	require.Eventually(t, func() bool { return s.health.collector().State().Notify.Delivered == 1 }, time.Minute, 100*time.Millisecond, "and counted in the metrics")
}
