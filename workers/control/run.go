package control

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"golang.org/x/sync/errgroup"

	"understudy/activities"
	"understudy/internal/contract"
	"understudy/internal/fence"
	"understudy/internal/lease"
	"understudy/internal/model"
	"understudy/internal/notify"
	"understudy/internal/trust"
	"understudy/workers"
	"understudy/workflows"
)

const (
	// Control activities are short; one that hangs longer is given up at the end and tried again by the next server.
	stopTimeout = 10 * time.Second
	// On a machine that is short of CPU a workflow task can take seconds without being stuck.
	deadlockTimeout = 10 * time.Second
	againAfter      = 2 * time.Second
)

// Run is the server until ctx ends. Whatever it was doing goes on with the next one.
func Run(ctx context.Context, o Options, log *slog.Logger) error {
	if err := o.validate(); err != nil {
		return err
	}
	if err := os.MkdirAll(o.DataDir, 0o700); err != nil {
		return model.Fail(model.Internal, err, "cannot create the data folder").WithTry("understudy server --data-dir DIR")
	}
	release, err := own(o.DataDir)
	if err != nil {
		return err
	}
	defer release()
	records, err := lease.OpenRecords(filepath.Join(o.DataDir, "records"), time.Now)
	if err != nil {
		return err
	}
	power, err := fence.Open(o.FenceConfig, fence.Command{Argv: o.FenceCommand}, log)
	if err != nil {
		return err
	}
	s := &server{o: o, log: log, control: &activities.Control{Records: records, Power: power, Now: time.Now}}
	if !power.Configured() {
		log.Warn("no_fence_device", "meaning", "the power of a silent host cannot be cut: a person has to confirm that it is off before a VM is started elsewhere")
	}
	if s.tls, err = workers.Secure(o.TLSDir, trust.Identity{Role: trust.Server}, log); err != nil {
		return err
	}
	if s.tls != nil {
		s.health.certificate = s.tls.NotAfter
	}
	if o.Webhook.TLS {
		s.o.Webhook.Secure = s.tls
	}
	if s.desk, err = o.Notify.Desk("server", "", o.DataDir, log); err != nil {
		return err
	}
	s.health.notified = s.desk.Facts
	stopTrust, err := s.trust(ctx)
	if err != nil {
		return err
	}
	defer stopTrust()
	granting, err := newGrantor(o, records, s.tls, log)
	if err != nil {
		return err
	}
	if granting != nil {
		defer granting.stop()
		s.control.Grantor = &granting.self
	}
	return s.run(ctx)
}

func (o Options) validate() error {
	if o.TemporalAddress == "" {
		if net.ParseIP(o.IP) == nil {
			return model.Fail(model.InvalidArgument, nil, "--ip must be an IP address, not %q", o.IP).WithTry("--ip 127.0.0.1")
		}
		for name, port := range map[string]int{"--temporal-port": o.TemporalPort, "--ui-port": o.UIPort} {
			if port < 1 || port > 65535 {
				return model.Fail(model.InvalidArgument, nil, "%s must be a port, not %d", name, port)
			}
		}
	}
	if o.UIIP != "" && net.ParseIP(o.UIIP) == nil {
		return model.Fail(model.InvalidArgument, nil, "--ui-ip must be an IP address, not %q", o.UIIP).WithTry("--ui-ip 127.0.0.1")
	}
	if o.JoinListen != "" && (o.TLSDir == "" || o.AuthorityDir == "") {
		return model.Fail(model.InvalidArgument, nil, "--join-listen needs the server's own certificate and the authority").
			WithTry("understudy server --tls-dir FOLDER --ca-dir FOLDER --join-listen " + o.JoinListen)
	}
	if o.Webhook.TLS && o.TLSDir == "" {
		return model.Fail(model.InvalidArgument, nil, "--webhook-tls needs the server's certificate").WithTry("--tls-dir FOLDER")
	}
	if o.Namespace == "" {
		return model.Fail(model.InvalidArgument, nil, "--namespace must not be empty").WithTry("--namespace " + contract.Namespace)
	}
	return o.Webhook.validate()
}

func (o Options) address() string {
	if o.TemporalAddress != "" {
		return o.TemporalAddress
	}
	return net.JoinHostPort(o.IP, strconv.Itoa(o.TemporalPort))
}

type server struct {
	o       Options
	log     *slog.Logger
	tls     *trust.Folder // nil: plain text
	control *activities.Control
	health  health
	desk    *notify.Desk // nil: nobody is told
}

// run ends things in the reverse order of their start: the worker before the Temporal it talks to.
func (s *server) run(ctx context.Context) error {
	stopHealth, err := s.health.listen(s.o.HealthListen, s.log)
	if err != nil {
		return err
	}
	defer stopHealth()
	defer s.tell(ctx)()
	if s.o.Webhook.Listen != "" {
		h, err := newWebhook(s.o.Webhook, plane{&s.health.worker}, s.o.DataDir, s.log)
		if err != nil {
			return err
		}
		stopWebhook, err := h.listen()
		if err != nil {
			return err
		}
		defer stopWebhook()
	}
	if s.o.TemporalAddress == "" {
		b, err := newBundled(s.o, s.log)
		if err != nil {
			return err
		}
		bundledCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
		var g errgroup.Group
		g.Go(func() error { b.run(bundledCtx); return nil })
		defer func() {
			stop()
			_ = g.Wait() // always nil
		}()
		s.health.bundled.Store(b)
	}
	for {
		err := s.work(ctx)
		if ctx.Err() != nil {
			s.log.Info("stopped")
			return nil
		}
		s.log.Error("worker_lost", "error", err, "again_in", againAfter.String())
		select {
		case <-ctx.Done():
		case <-time.After(againAfter):
		}
	}
}

// tell lets people know of alarms until the returned function is called.
func (s *server) tell(ctx context.Context) (stop func()) {
	if s.desk == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { s.desk.Run(ctx) })
	wg.Go(func() {
		alarms{s.desk, s.health.collector(), s.o.DataDir, s.health.certificate, time.Now}.run(ctx)
	})
	return func() { cancel(); wg.Wait() }
}

// work connects, prepares the namespace and serves the control queue until ctx ends or the worker gives up.
func (s *server) work(ctx context.Context) error {
	c, err := workers.DialPatiently(ctx, s.o.address(), s.o.Namespace, s.log, workers.ToServer(s.tls, s.o.address()))
	if err != nil {
		return err
	}
	defer c.Close()
	prepareCtx, cancel := context.WithTimeout(ctx, 30*time.Second)
	err = workers.Prepare(prepareCtx, c, s.o.Namespace)
	cancel()
	if err != nil {
		return err
	}
	return s.serve(ctx, c)
}

func (s *server) serve(ctx context.Context, c client.Client) error {
	fatal := make(chan error, 1)
	w := worker.New(c, contract.ControlQueue, worker.Options{
		WorkerStopTimeout:        stopTimeout,
		DeadlockDetectionTimeout: deadlockTimeout,
		OnFatalError: func(err error) {
			select {
			case fatal <- err:
			default:
			}
		},
	})
	workflows.Register(w)
	s.control.Register(w)
	if err := w.Start(); err != nil {
		return err
	}
	s.health.worker.Store(&c)
	s.log.Info("serving", "temporal", s.o.address(), "namespace", s.o.Namespace, "data", s.o.DataDir, "version", model.Version())
	telling, enough := context.WithCancel(ctx)
	var told sync.WaitGroup
	told.Go(func() { s.announce(telling, c) })
	defer func() {
		s.health.worker.Store(nil)
		enough()
		told.Wait()
		w.Stop()
	}()
	select {
	case <-ctx.Done():
		return nil
	case err := <-fatal:
		return err
	}
}
