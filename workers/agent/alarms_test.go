package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/durable"
	"understudy/internal/guard"
	"understudy/internal/lease"
	"understudy/internal/model"
	"understudy/workers"
)

type told struct{ State, Name, VM, Host, Why, Try string }

// The whole agent, with nothing around it: no Temporal, no server, no libvirtd, no guard. What it knows of its VM from before is
// enough to see that its writes are in no point, and the message arrives.
func TestAnAgentWhoseControlPlaneIsDeadTellsOfItsVMs(t *testing.T) {
	got := make(chan told, 100)
	page := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var d struct{ Notifications []told }
		_ = json.NewDecoder(r.Body).Decode(&d)
		for _, n := range d.Notifications {
			got <- n
		}
	}))
	defer page.Close()
	dir := t.TempDir()
	const password = "correct-horse"
	require.NoError(t, os.WriteFile(filepath.Join(dir, "notify"), []byte("http://bearer:"+password+"@"+page.Listener.Addr().String()+"/hook\n"), 0o600))
	state := filepath.Join(dir, "state")
	require.NoError(t, os.MkdirAll(filepath.Join(state, "watch"), 0o700))
	wrote := time.Now().Add(-5 * time.Minute)
	require.NoError(t, durable.WriteJSON(filepath.Join(state, "watch", db1.UUID+".json"), &entry{
		VM: db1, Generation: 1, RPO: 30 * time.Second, Committed: model.PointRef{Generation: 1, Seq: 7}, Runs: true,
		Meter: meter{Last: &sample{At: wrote, Bytes: 1 << 20}, Since: tally{Bytes: 1 << 20, Reqs: 8, Oldest: &wrote}},
	}))

	var log bytes.Buffer
	var mu sync.Mutex
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	run := "/tmp/" + filepath.Base(dir) // a socket's path is short
	defer os.RemoveAll(run)
	go func() {
		done <- Run(ctx, Options{
			Host: "host-a", TemporalAddress: nobody(t), Namespace: "understudy", LinkListen: "127.0.0.1:0", StateDir: state, RunDir: run,
			LibvirtSocket: filepath.Join(dir, "no-libvirt"), LeaseTTL: model.LeaseTTL, LeaseRenew: model.LeaseRenew,
			Notify: workers.NotifyOptions{File: filepath.Join(dir, "notify"), Repeat: time.Hour},
		}, slog.New(slog.NewTextHandler(writer(func(p []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return log.Write(p)
		}), nil)))
	}()
	seen := map[string]told{}
	for len(seen) == 0 {
		select {
		case n := <-got:
			require.NotContains(t, seen, n.Name, "once")
			seen[n.Name] = n
		case err := <-done:
			t.Fatal("the agent ended: ", err)
		case <-time.After(5 * time.Minute):
			t.Fatal("no message; ", seen)
		}
	}
	cancel()
	require.NoError(t, <-done)
	n := seen["RPOViolated"]
	require.Equal(t, "firing db1 host-a", n.State+" "+n.VM+" "+n.Host)
	require.Contains(t, n.Why, "the target is 30s")
	require.Contains(t, n.Try, "understudy status db1")
	mu.Lock()
	defer mu.Unlock()
	require.NotContains(t, log.String(), password)
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// nobody is an address where nothing listens.
func nobody(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

func TestALostControlPlaneIsToldByWhoServesVMs(t *testing.T) {
	var c controlled
	now := time.Now()
	require.Empty(t, c.alarms("host-a", 3, now), "nobody asked yet")
	c.judge(t.Context(), nil, now)
	c.judge(t.Context(), nil, now.Add(time.Hour))
	all := c.alarms("host-a", 3, now)
	require.Len(t, all, 1)
	require.Equal(t, now, all[0].Since, "since it was lost, not since it was asked last")
	require.Equal(t, controlAfter, all[0].After)
	require.Contains(t, all[0].Why, "what this host serves (3 protected)")
	require.Empty(t, c.alarms("host-a", 0, now), "a host that serves nothing has nothing to say")
}

func TestAVMThatIsDownIsToldWhenTheControlPlaneCannotBe(t *testing.T) {
	w := &watcher{host: "host-a", now: time.Now, vms: map[string]*entry{db1.UUID: {VM: db1, Runs: true, down: true, why: "crashed"}}}
	all := w.alarms()
	require.Len(t, all, 1)
	require.Equal(t, "VMDownUntold", all[0].Name)
	require.Contains(t, all[0].Why, "crashed")
	w.vms[db1.UUID].Runs = false // it was told
	require.Empty(t, w.alarms())
}

func TestALeaseThatRunsOutAndAFrozenVMAreOneMatterThatGetsWorse(t *testing.T) {
	left := 14 * time.Second
	g := &guarded{base: model.DefaultTerms(1), moving: func(string) bool { return false }, stopped: map[string]bool{}}
	a := alarms{host: "host-a", guard: g, held: func() ([]lease.Held, error) {
		return []lease.Held{{Entry: lease.Entry{VM: db1}, Left: int64(left)}}, nil
	}}
	require.Empty(t, a.leases())
	left = 4 * time.Second
	low := a.leases()
	require.Equal(t, 1, low[0].Level)
	left, g.stopped[db1.UUID] = -time.Second, true
	frozen := a.leases()
	require.Equal(t, 2, frozen[0].Level)
	require.Equal(t, low[0].Key, frozen[0].Key)
	require.Equal(t, "db1 is frozen by its guard", frozen[0].What)
	g.moving = func(string) bool { return true }
	left = 0
	require.Empty(t, a.leases(), "a switchover pauses it")
	require.True(t, standing([]guard.Entry{{UUID: "u", Copies: []guard.Copy{{State: "frozen"}}}})["u"])
}
