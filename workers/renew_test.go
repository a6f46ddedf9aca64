package workers_test

import (
	"context"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/lease"
	"understudy/internal/link"
	"understudy/internal/model"
	"understudy/workers"
)

const vmUUID = "8a3c1d6e-0f5b-4c7a-9d2e-1b6f5a4c3d2e"

var vm = model.VMRef{Name: "db1", UUID: vmUUID}

// plug is a grantor on a real connection, which can be pulled out and put in again.
type plug struct {
	t       *testing.T
	address string
	grant   func(lease.RenewIn) lease.RenewOut
	conns   atomic.Int32
	end     func()
}

func (p *plug) in() {
	p.t.Helper()
	address := p.address
	if address == "" {
		address = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", address)
	require.NoError(p.t, err)
	p.address = l.Addr().String()
	s := link.NewResponder(workers.Granting(p.grant), slog.New(slog.DiscardHandler))
	done := make(chan error, 1)
	go func() { done <- s.Serve(counting{l, &p.conns}) }()
	p.end = func() {
		s.Stop()
		require.NoError(p.t, <-done)
		p.end = func() {}
	}
	p.t.Cleanup(func() { p.end() })
}

type counting struct {
	net.Listener
	n *atomic.Int32
}

func (c counting) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.n.Add(1)
	}
	return conn, err
}

func renewer(t *testing.T) *workers.Renewer {
	r := &workers.Renewer{Dial: func(ctx context.Context, address string) (*link.Client, error) { return link.Dial(ctx, address) }}
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

func ask(t *testing.T, r *workers.Renewer, to model.Grantor, in lease.RenewIn) (lease.RenewOut, error) {
	ctx, cancel := context.WithTimeout(t.Context(), model.LeaseAttempt)
	defer cancel()
	return r.Renew(ctx, to, in)
}

func TestBothGrantorsAnswerOverTheLink(t *testing.T) {
	records, err := lease.OpenRecords(t.TempDir(), time.Now)
	require.NoError(t, err)
	_, err = records.Begin(t.Context(), vm, 3, "host-a")
	require.NoError(t, err)
	state, err := lease.OpenState(t.TempDir(), "host-b")
	require.NoError(t, err)
	require.NoError(t, state.Admit(vm, 3))
	in := lease.RenewIn{Host: "host-a", Instance: "one", BootID: "boot", Asks: []lease.Ask{{VM: vmUUID, Generation: 3, Nonce: 7}}}
	for name, p := range map[string]*plug{"control plane": {t: t, grant: records.Grant}, "peer": {t: t, grant: state.Grant}} {
		p.in()
		r, to := renewer(t), model.Grantor{Address: p.address}
		for range 3 {
			out, err := ask(t, r, to, in)
			require.NoError(t, err, name)
			require.Contains(t, []string{records.ID(), state.ID()}, out.Grantor)
			require.Equal(t, []lease.Answer{{VM: vmUUID, Nonce: 7, Granted: true, Floor: 3}}, out.Answers, name)
		}
		require.EqualValues(t, 1, p.conns.Load(), "the connection is kept")

		_, err := ask(t, r, to, lease.RenewIn{Host: "not/a host"})
		require.Equal(t, model.InvalidArgument, model.KindOf(err))
	}
	_, err = records.Claim(t.Context(), vmUUID, 4, 3, "host-b", "try")
	require.NoError(t, err)
	p := &plug{t: t, grant: records.Grant}
	p.in()
	out, err := ask(t, renewer(t), model.Grantor{Address: p.address}, in)
	require.NoError(t, err)
	require.False(t, out.Answers[0].Granted, "a claim is the control plane's seal")
}

// A grantor that came back is heard at the next renewal, not when a dead connection is noticed.
func TestAGrantorThatCameBackIsHeardAtTheNextRenewal(t *testing.T) {
	p := &plug{t: t, grant: func(lease.RenewIn) lease.RenewOut { return lease.RenewOut{Grantor: "c", Answers: []lease.Answer{}} }}
	p.in()
	r, to := renewer(t), model.Grantor{Address: p.address}
	in := lease.RenewIn{Host: "host-a"}
	_, err := ask(t, r, to, in)
	require.NoError(t, err)
	for range 3 {
		p.end()
		for range 3 {
			_, err = ask(t, r, to, in)
			require.Equal(t, model.LinkDown, model.KindOf(err))
		}
		p.in()
		out, err := ask(t, r, to, in)
		require.NoError(t, err)
		require.Equal(t, "c", out.Grantor)
	}
}

// A grantor that takes the question and never answers costs one attempt.
func TestAGrantorThatHangsCostsOneAttempt(t *testing.T) {
	hang := make(chan struct{})
	p := &plug{t: t, grant: func(lease.RenewIn) lease.RenewOut { <-hang; return lease.RenewOut{} }}
	p.in()
	defer close(hang)
	begin := time.Now()
	_, err := ask(t, renewer(t), model.Grantor{Address: p.address}, lease.RenewIn{Host: "host-a"})
	require.Error(t, err)
	require.Less(t, time.Since(begin), model.LeaseAttempt+2*time.Second)
}
