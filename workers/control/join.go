package control

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"understudy/internal/model"
	"understudy/internal/trust"
)

// trust keeps the server's own certificate fresh and, where asked to, lets hosts join. It returns what stops both.
func (s *server) trust(ctx context.Context) (stop func(), err error) {
	if s.tls == nil {
		return func() {}, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	renew := s.tls.RenewAt
	closing := func() {}
	if s.o.AuthorityDir != "" {
		authority, err := trust.OpenAuthority(s.o.AuthorityDir, time.Now)
		if err != nil {
			cancel()
			return nil, err
		}
		renew = func(context.Context) error { return authority.Renew(s.tls.Path()) }
		if s.o.JoinListen != "" {
			if closing, err = s.welcome(authority, &wg); err != nil {
				cancel()
				return nil, err
			}
		}
	}
	wg.Go(func() { s.tls.KeepFresh(ctx, renew, s.log) })
	return func() {
		cancel()
		closing()
		wg.Wait()
	}, nil
}

// welcome serves joins and renewals. It does not need Temporal: certificates must not expire because that is down.
func (s *server) welcome(authority *trust.Authority, wg *sync.WaitGroup) (stop func(), err error) {
	l, err := net.Listen("tcp", s.o.JoinListen)
	if err != nil {
		return nil, model.Fail(model.InvalidArgument, err, "cannot listen on %s for hosts that join", s.o.JoinListen).WithTry("--join-listen HOST:PORT")
	}
	desk := trust.NewDesk(authority, s.tls, s.log)
	srv := &http.Server{
		Handler: desk.Routes(), ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), // handshakes of strangers
	}
	wg.Go(func() {
		if err := srv.Serve(tls.NewListener(l, desk.TLS())); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("join_ended", "error", err)
		}
	})
	s.log.Info("hosts_may_join", "address", l.Addr().String())
	return func() { _ = srv.Close() }, nil
}
