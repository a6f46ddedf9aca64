package link

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"understudy/internal/model"
	"understudy/internal/trust"
)

// certified makes folders of one site.
func certified(t *testing.T) func(trust.Role, string) *trust.Folder {
	ca, err := trust.Init(filepath.Join(t.TempDir(), "ca"), "test", time.Now)
	require.NoError(t, err)
	return func(role trust.Role, name string) *trust.Folder {
		dir := filepath.Join(t.TempDir(), "tls")
		w := trust.Wish{Identity: trust.Identity{Role: role, Name: name}, Valid: time.Hour}
		if role != trust.Operator {
			w.Addresses = []string{"127.0.0.1"}
		}
		require.NoError(t, ca.Grant(dir, w))
		f, err := trust.Open(dir)
		require.NoError(t, err)
		return f
	}
}

type anyGeneration struct{}

func (anyGeneration) Admit(model.VMRef, model.Generation) error { return nil }

type noRoom struct{}

func (noRoom) Stage(context.Context, model.StagingSpec) (Staging, error) {
	return nil, model.Fail(model.TargetFull, nil, "no room")
}

func listen(t *testing.T, self model.HostID, own *trust.Folder) (string, *Server) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := NewServer(noRoom{}, anyGeneration{}, self, slog.New(slog.DiscardHandler), grpc.Creds(credentials.NewTLS(own.Server(trust.Host))))
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); require.NoError(t, <-done) })
	return l.Addr().String(), s
}

func dialAs(t *testing.T, own *trust.Folder, address string) *Client {
	c, err := Dial(t.Context(), address, grpc.WithTransportCredentials(credentials.NewTLS(own.Client(address, trust.Host, trust.Server))))
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestOnlyHostsOfTheSiteReachAReceiverAndItMustBeWhoItSays(t *testing.T) {
	issue := certified(t)
	address, _ := listen(t, "host-b", issue(trust.Host, "host-b"))
	got, err := dialAs(t, issue(trust.Host, "host-a"), address).Ping(t.Context())
	require.NoError(t, err)
	require.Equal(t, model.HostID("host-b"), got)

	for name, who := range map[string]*trust.Folder{
		"an operator": issue(trust.Operator, "kim"), "a host of another site": certified(t)(trust.Host, "host-a"),
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		_, err := dialAs(t, who, address).Ping(ctx)
		cancel()
		require.Error(t, err, name)
	}
	plain, err := Dial(t.Context(), address)
	require.NoError(t, err)
	defer plain.Close()
	_, err = plain.Ping(t.Context())
	require.Error(t, err, "without TLS")

	liar, _ := listen(t, "host-b", issue(trust.Host, "host-c"))
	_, err = dialAs(t, issue(trust.Host, "host-a"), liar).Ping(t.Context())
	require.ErrorContains(t, err, "understudy://host/host-c speaks as host host-b")
}

func TestAHostCannotSendThePointsOfAVMThatAnotherSends(t *testing.T) {
	issue := certified(t)
	address, _ := listen(t, "host-b", issue(trust.Host, "host-b"))
	stage := func(f *trust.Folder, g model.Generation) error {
		s, err := dialAs(t, f, address).Stage(t.Context(), model.StagingSpec{
			VM: model.VMRef{Name: "db1", UUID: "8a3c1d6e-0f5b-4c7a-9d2e-1b6f5a4c3d2e"}, PointRef: model.PointRef{Generation: g, Seq: 1},
			Disks: []model.StagingDisk{{Target: "vda", Size: 1 << 20, Mode: model.ModeFull}}, Capture: "x",
		})
		if err == nil {
			_ = s.Close()
		}
		return err
	}
	a, c := issue(trust.Host, "host-a"), issue(trust.Host, "host-c")
	require.Equal(t, model.TargetFull, model.KindOf(stage(a, 4)), "it comes as far as the store")
	require.Equal(t, model.Refused, model.KindOf(stage(c, 4)))
	require.Equal(t, model.TargetFull, model.KindOf(stage(c, 5)), "the VM moved")
	require.Equal(t, model.Refused, model.KindOf(stage(a, 5)))
}

func TestAHostAsksInItsOwnNameOnly(t *testing.T) {
	issue := certified(t)
	address, s := listen(t, "host-b", issue(trust.Host, "host-b"))
	s.Respond(func(ctx context.Context, question []byte) ([]byte, error) {
		return []byte("granted"), Speaks(ctx, model.HostID(question))
	})
	c := dialAs(t, issue(trust.Host, "host-a"), address)
	answer, err := c.Ask(t.Context(), []byte("host-a"))
	require.NoError(t, err)
	require.Equal(t, "granted", string(answer))
	_, err = c.Ask(t.Context(), []byte("host-c"))
	require.Equal(t, model.Refused, model.KindOf(err))
}
