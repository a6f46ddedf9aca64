package control

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/lease"
	"understudy/internal/link"
	"understudy/internal/model"
	"understudy/workers"
)

// The grantor is up before Temporal is, and whatever becomes of that.
func TestTheControlPlaneGrantsWithoutTemporal(t *testing.T) {
	dir := t.TempDir()
	vm := model.VMRef{Name: "db1", UUID: vmUUID}
	records, err := lease.OpenRecords(dir+"/records", time.Now)
	require.NoError(t, err)
	_, err = records.Begin(t.Context(), vm, 1, "host-a")
	require.NoError(t, err)
	port := freePort(t)
	o := Options{
		TemporalAddress: "127.0.0.1:1", Namespace: "understudy", DataDir: dir,
		LeaseListen: (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}).String(),
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, o, slog.New(slog.DiscardHandler)) }()
	defer func() {
		cancel()
		require.NoError(t, <-ended)
	}()
	r := &workers.Renewer{Dial: func(ctx context.Context, address string) (*link.Client, error) { return link.Dial(ctx, address) }}
	defer r.Close()
	require.Eventually(t, func() bool {
		limit, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		out, err := r.Renew(limit, model.Grantor{Address: o.LeaseListen}, lease.RenewIn{Host: "host-a", Asks: []lease.Ask{{VM: vmUUID, Generation: 1, Nonce: 1}}})
		return err == nil && out.Grantor == records.ID() && out.Answers[0].Granted
	}, 20*time.Second, 50*time.Millisecond)
}

func TestAgentsAreToldAnAddressThatTheyCanReach(t *testing.T) {
	at := &net.TCPAddr{IP: net.IPv4zero, Port: 7460}
	got, err := leaseAddress(Options{LeaseAdvertise: "control:17460"}, at)
	require.NoError(t, err)
	require.Equal(t, "control:17460", got)
	_, err = leaseAddress(Options{LeaseAdvertise: "control"}, at)
	require.Equal(t, model.InvalidArgument, model.KindOf(err))
	got, err = leaseAddress(Options{}, &net.TCPAddr{IP: net.IPv4(10, 77, 0, 1), Port: 7460})
	require.NoError(t, err)
	require.Equal(t, "10.77.0.1:7460", got)
	got, err = leaseAddress(Options{}, at)
	require.NoError(t, err)
	require.NotContains(t, got, "0.0.0.0")
	require.Contains(t, got, ":7460")

	records, err := lease.OpenRecords(t.TempDir(), time.Now)
	require.NoError(t, err)
	none, err := newGrantor(Options{LeaseListen: "off"}, records, nil, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.Nil(t, none)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	_, err = newGrantor(Options{LeaseListen: l.Addr().String()}, records, nil, slog.New(slog.DiscardHandler))
	require.Equal(t, model.InvalidArgument, model.KindOf(err))
}
