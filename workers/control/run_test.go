package control

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"

	"understudy/internal/contract"
	"understudy/internal/model"
	"understudy/internal/pgtest"
	"understudy/internal/trust"
	"understudy/starter"
	"understudy/workers"
)

// site is a real server with the bundled Temporal, and hosts whose activities are played.
type site struct {
	t      *testing.T
	o      Options
	log    *safeBuffer
	c      *starter.Client
	refuse atomic.Pointer[error] // what preflight answers
	issue  func(trust.Identity) *trust.Folder
	end    func() // of the server that runs
}

const vmUUID = "8a3c1d6e-0f5b-4c7a-9d2e-1b6f5a4c3d2e"

// freePort is nothing's, as are the next five: the bundled Temporal listens on three of them, Web UI and health on two.
func freePort(t *testing.T) int {
	for {
		port := anyPort(t)
		free := true
		for next := port + 1; next <= port+5; next++ {
			l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(next)))
			if err != nil {
				free = false
				continue
			}
			_ = l.Close()
		}
		if free {
			return port
		}
	}
}

func anyPort(t *testing.T) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// raise starts a site. The rest changes its options before it starts.
func raise(t *testing.T, secure bool, change ...func(*Options)) *site {
	t.Helper()
	binary, err := filepath.Abs("../../build/understudy-temporal")
	require.NoError(t, err)
	if _, err := os.Stat(binary); err != nil {
		t.Skip("needs build/understudy-temporal: run make build")
	}
	port := freePort(t)
	s := &site{t: t, log: &safeBuffer{}, o: Options{
		Namespace: "understudy", DataDir: t.TempDir(), IP: "127.0.0.1", TemporalPort: port, UIPort: port + 4,
		TemporalBinary: binary, HealthListen: fmt.Sprintf("127.0.0.1:%d", port+5),
	}}
	s.issue = func(trust.Identity) *trust.Folder { return nil }
	if secure {
		s.certify()
	}
	for _, c := range change {
		c(&s.o)
	}
	s.serve()
	t.Cleanup(func() {
		s.end()
		if t.Failed() {
			t.Log(s.log.String())
		}
	})
	s.c, err = starter.Dial(t.Context(), s.o.address(), s.o.Namespace, workers.ToServer(s.issue(trust.Identity{Role: trust.Operator, Name: "kim"}), s.o.address()))
	require.NoError(t, err)
	t.Cleanup(s.c.Close)
	s.host("host-a")
	s.host("host-b")
	return s
}

// serve runs a server, until end.
func (s *site) serve() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, s.o, slog.New(slog.NewTextHandler(s.log, nil))) }()
	s.end = func() {
		cancel()
		select {
		case err := <-ended:
			require.NoError(s.t, err)
		case <-time.After(30 * time.Second):
			s.t.Error("the server does not end")
		}
	}
	require.Eventually(s.t, func() bool { return s.healthy().Healthy }, 60*time.Second, 100*time.Millisecond)
}

func (s *site) healthy() (r report) {
	resp, err := http.Get("http://" + s.o.HealthListen + "/healthz")
	if err != nil {
		return r
	}
	defer resp.Body.Close()
	require.NoError(s.t, json.NewDecoder(resp.Body).Decode(&r))
	require.Equal(s.t, r.Healthy, resp.StatusCode == http.StatusOK)
	return r
}

// host plays an agent: it lives, knows db1, and never captures anything.
func (s *site) host(h model.HostID) {
	c, err := client.Dial(client.Options{
		HostPort: s.o.address(), Namespace: s.o.Namespace, Logger: slog.New(slog.DiscardHandler),
		ConnectionOptions: client.ConnectionOptions{TLS: workers.ToServer(s.issue(trust.Identity{Role: trust.Host, Name: string(h)}), s.o.address())},
	})
	require.NoError(s.t, err)
	facts := model.HostFacts{Host: h, LinkAddress: string(h) + ":7450", Instance: string(h) + "-1", AgentVersion: "test"}
	w := worker.New(c, contract.HostQueue(h), worker.Options{WorkerStopTimeout: time.Second})
	contract.Watch.Register(w, func(ctx context.Context, _ contract.WatchIn) (contract.WatchOut, error) {
		for {
			activity.RecordHeartbeat(ctx)
			select {
			case <-ctx.Done():
				return contract.WatchOut{Facts: facts}, ctx.Err()
			case <-activity.GetWorkerStopChannel(ctx):
				return contract.WatchOut{Facts: facts}, nil
			case <-time.After(300 * time.Millisecond):
			}
		}
	})
	contract.Inspect.Register(w, func(_ context.Context, in contract.InspectIn) (contract.InspectOut, error) {
		out := contract.InspectOut{Facts: facts}
		if h == "host-a" && in.VM == "db1" {
			out.Domains = []model.DomainFacts{{VM: model.VMRef{Name: "db1", UUID: vmUUID}, Running: true}}
		}
		return out, nil
	})
	contract.Preflight.Register(w, func(context.Context, contract.PreflightIn) (contract.PreflightOut, error) {
		if err := s.refuse.Load(); err != nil {
			return contract.PreflightOut{}, *err
		}
		return contract.PreflightOut{Facts: facts, Disks: []model.Disk{{Target: "vda", Format: model.FormatQCOW2, Path: "/srv/db1.qcow2", Size: 1 << 20}}, Running: true}, nil
	})
	contract.Seal.Register(w, func(context.Context, contract.SealIn) (contract.SealOut, error) { return contract.SealOut{}, nil })
	contract.Points.Register(w, func(context.Context, contract.PointsIn) (contract.PointsOut, error) { return contract.PointsOut{}, nil })
	contract.Retire.Register(w, func(context.Context, contract.RetireIn) (contract.RetireOut, error) {
		return contract.RetireOut{}, nil
	})
	notRunning := temporal.NewNonRetryableApplicationError("the domain is off", string(model.NotRunning), nil, contract.Detail{VM: "db1", Host: h})
	contract.Snapshot.Register(w, func(context.Context, contract.SnapshotIn) (contract.SnapshotOut, error) {
		return contract.SnapshotOut{}, notRunning
	})
	contract.Observe.Register(w, func(context.Context, contract.ObserveIn) (model.Observation, error) {
		return model.Observation{At: time.Now(), State: "shut off"}, nil
	})
	contract.Abandon.Register(w, func(context.Context, contract.PointIn) (contract.SettleOut, error) { return contract.SettleOut{}, nil })
	contract.Discard.Register(w, func(context.Context, contract.PointIn) (contract.None, error) { return contract.None{}, nil })
	require.NoError(s.t, w.Start())
	s.t.Cleanup(func() {
		w.Stop()
		c.Close()
	})
	require.NoError(s.t, starter.New(c).AgentStarted(s.t.Context(), facts))
}

func (s *site) spec() contract.ProtectSpec {
	return contract.ProtectSpec{VM: model.VMRef{Name: "db1", UUID: vmUUID}, Primary: "host-a", Standby: "host-b", Policy: model.DefaultPolicy()}
}

// One story on the real bundled Temporal: what people ask for comes back with the kinds that the exit codes follow.
func TestPeopleReachAProtectionAndRefusalsKeepTheirKind(t *testing.T) {
	for name, secure := range map[string]bool{"in plain text": false, "by certificates": true} {
		t.Run(name, func(t *testing.T) { reach(t, raise(t, secure)) })
	}
}

func TestASmallSiteMayKeepItsTemporalInPostgres(t *testing.T) {
	pg := pgtest.Start(t)
	s := raise(t, true, func(o *Options) { o.TemporalDB, o.DBPasswordFile = pg.URL(pgtest.Database), pg.PasswordFile() })
	reach(t, s)
	require.NoFileExists(t, filepath.Join(s.o.DataDir, "temporal.db"))
	require.NotContains(t, s.log.String(), pgtest.Password)
}

func reach(t *testing.T, s *site) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	is := func(kind model.Kind, err error) {
		t.Helper()
		require.Error(t, err)
		require.Equal(t, kind, model.KindOf(err), "%v", err)
	}
	servers, err := s.c.Servers(ctx)
	require.NoError(t, err)
	require.Equal(t, 1, servers)
	require.Eventually(t, func() bool {
		hosts, err := s.c.Hosts(ctx)
		return err == nil && len(hosts) == 2 && !hosts[0].Silent && !hosts[1].Silent
	}, 20*time.Second, 100*time.Millisecond)

	// The VM is found on its host; what is not there is not found.
	facts, at, err := s.c.Locate(ctx, "db1", "")
	require.NoError(t, err)
	require.Equal(t, []any{model.HostID("host-a"), vmUUID}, []any{at, facts.VM.UUID})
	_, _, err = s.c.Locate(ctx, "nosuch", "")
	is(model.NotFound, err)
	_, err = s.c.Inspect(ctx, "host-z", contract.InspectIn{})
	is(model.NotFound, err)
	_, err = s.c.Find(ctx, "db1")
	is(model.NotFound, err)

	// A refusal of the setup keeps kind, host and advice, and leaves nothing behind.
	refusal := temporal.NewNonRetryableApplicationError("the disk lies outside the allowed folders (VM db1 on host-a): /mnt/x. Try: understudy agent --image-dir /mnt",
		string(model.Refused), nil, contract.Detail{VM: "db1", Host: "host-a", Try: "understudy agent --image-dir /mnt"})
	s.refuse.Store(&refusal)
	_, err = s.c.EnsureProtected(ctx, s.spec())
	is(model.Refused, err)
	var f *model.Failure
	require.ErrorAs(t, err, &f)
	require.Equal(t, "the disk lies outside the allowed folders", f.What)
	require.EqualError(t, f.Err, "/mnt/x")
	require.Equal(t, "understudy agent --image-dir /mnt", f.Try)
	s.refuse.Store(nil)

	// Accepted once, a conflict the second time.
	d, err := s.c.EnsureProtected(ctx, s.spec())
	require.NoError(t, err)
	require.True(t, d.State.Accepted)
	_, err = s.c.EnsureProtected(ctx, s.spec())
	is(model.Conflict, err)
	d, err = s.c.Find(ctx, "db1")
	require.NoError(t, err)
	require.Equal(t, vmUUID, d.Spec.VM.UUID)
	vm := d.Spec.VM

	_, err = s.c.RequestFailover(ctx, vm, contract.FailoverRequestIn{By: "test"})
	is(model.Refused, err) // there is no point to start from
	_, err = s.c.Pause(ctx, vm, contract.PauseIn{By: "test"})
	require.NoError(t, err)
	_, err = s.c.ReplicateNow(ctx, vm, contract.ReplicateNowIn{By: "test"})
	is(model.Conflict, err)

	// Temporal dies; the protection does not.
	require.NoError(t, syscall.Kill(s.temporalPID(), syscall.SIGKILL))
	require.Eventually(t, func() bool { r := s.healthy(); return r.Healthy && r.Restarts == 1 }, 60*time.Second, 100*time.Millisecond)
	require.Eventually(t, func() bool {
		d, err = s.c.Find(ctx, "db1")
		return err == nil && d.State.Paused != nil
	}, 60*time.Second, 200*time.Millisecond)
	_, err = s.c.Resume(ctx, vm, contract.ResumeIn{By: "test"})
	require.NoError(t, err)

	out, err := s.c.Unprotect(ctx, vm, contract.UnprotectIn{By: "test", PurgeReplica: true})
	require.NoError(t, err)
	require.Empty(t, out.Leftovers)
	_, err = s.c.Find(ctx, "db1")
	is(model.NotFound, err)
	_, err = s.c.Pause(ctx, vm, contract.PauseIn{By: "test"})
	is(model.NotFound, err)
	all, err := s.c.List(ctx)
	require.NoError(t, err)
	require.Empty(t, all)
}

// temporalPID finds the bundled child in the server's log.
func (s *site) temporalPID() int {
	found := regexp.MustCompile(`msg=temporal_started pid=(\d+)`).FindAllStringSubmatch(s.log.String(), -1)
	require.NotEmpty(s.t, found)
	pid, err := strconv.Atoi(found[len(found)-1][1])
	require.NoError(s.t, err)
	return pid
}
