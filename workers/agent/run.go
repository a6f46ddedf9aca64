package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"understudy/activities"
	"understudy/internal/hostload"
	"understudy/internal/hypervisor/libvirtrpc"
	"understudy/internal/lease"
	"understudy/internal/link"
	"understudy/internal/marks"
	"understudy/internal/model"
	"understudy/internal/notify"
	"understudy/internal/recoverypoint"
	"understudy/internal/restore"
	"understudy/internal/snapshot"
	"understudy/internal/trust"
	"understudy/starter"
	"understudy/workers"
)

// maxRunDir leaves room for the longest socket name of ours in the 107 bytes of a socket's path.
const maxRunDir = 107 - len("/understudy-00000000-0000-0000-0000-000000000000.sock")

// agent is everything that lives as long as the process.
type agent struct {
	opts  Options
	log   *slog.Logger
	tls   *trust.Folder // nil: plain text
	hv    *libvirtrpc.Client
	store *recoverypoint.Store
	lis   net.Listener
	link  *link.Server
	watch *watcher
	share *shares
	tell  *signals
	out   *outbox
	host  *activities.Host
	self  *self
	desk  *notify.Desk // nil: nobody is told
	heard controlled

	restorer *restore.Restorer
	guard    *guarded
	holder   *lease.Holder
	renewer  *workers.Renewer
	oldTests []restore.Test // left by a process before this one
}

// Run serves this host until ctx ends. It waits for Temporal and libvirtd and goes on when they go away.
func Run(ctx context.Context, opts Options, log *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a, err := open(ctx, opts, log)
	if err != nil {
		return err
	}
	defer a.close()
	defer a.out.wait()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()

	var linkErr error
	wg.Go(func() {
		if linkErr = a.link.Serve(a.lis); linkErr != nil { // others must not be told of a receiver that is not there
			cancel()
		}
	})
	defer a.link.Stop()
	wg.Go(func() { a.guard.run(ctx) })
	wg.Go(func() { a.holder.Run(ctx) }) // first of all, and beside everything: it needs neither libvirt nor Temporal
	wg.Go(func() { a.watch.run(ctx) })
	wg.Go(func() { a.share.run(ctx) })
	if a.desk != nil {
		wg.Go(func() { a.desk.Run(ctx) })
		wg.Go(func() { a.alarms().run(ctx) })
		wg.Go(func() { a.heard.run(ctx, a.tell.c.Load, time.Now) })
	}
	if a.tls != nil {
		wg.Go(func() { a.tls.KeepFresh(ctx, a.tls.RenewAt, log) })
	}
	wg.Go(func() { a.watch.events(ctx, a.hv.Events) })
	wg.Go(func() { a.restorer.WatchPauses(ctx) })
	wg.Go(func() { a.restorer.SweepTests(ctx, a.oldTests) })
	log.Info("receiving", "address", a.self.address)
	wg.Go(func() { workers.TellSystemd(ctx, a.self.known.Load) })

	a.control(ctx, &wg)
	if linkErr != nil && !errors.Is(linkErr, net.ErrClosed) {
		return model.Fail(model.Internal, linkErr, "the receiver at %s ended", opts.LinkListen).WithHost(opts.Host)
	}
	return nil
}

// control works for the control plane until ctx ends.
func (a *agent) control(ctx context.Context, wg *sync.WaitGroup) {
	c, err := workers.DialPatiently(ctx, a.opts.TemporalAddress, a.opts.Namespace, a.log, workers.ToServer(a.tls, a.opts.TemporalAddress))
	if err != nil {
		return // only because ctx ended
	}
	defer c.Close()
	to := starter.New(c)
	a.tell.c.Store(to)
	a.host.Standing = func(ctx context.Context, token []byte) error { return c.RecordActivityHeartbeat(ctx, token) }
	announced := make(chan struct{})
	wg.Go(func() {
		defer close(announced)
		announce(ctx, c, to, a.self, a.log)
	})
	atOnce := bulkAtOnce
	if a.opts.LinkBudget > 0 {
		atOnce = sharedAtOnce
	}
	serve(ctx, c, a.host, atOnce, a.log)
	<-announced
}

func open(ctx context.Context, opts Options, log *slog.Logger) (_ *agent, err error) {
	a := &agent{opts: opts, log: log, tell: &signals{}} // not a result: a failure returns none, and what was begun is still to be ended
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	if err := folders(opts); err != nil {
		return nil, err
	}
	if a.tls, err = workers.Secure(opts.TLSDir, trust.Identity{Role: trust.Host, Name: string(opts.Host)}, log); err != nil {
		return nil, err
	}
	if a.desk, err = opts.Notify.Desk("agent", string(opts.Host), opts.StateDir, log); err != nil {
		return nil, err
	}
	state, err := lease.OpenState(statesIn(opts), opts.Host)
	if err != nil {
		return nil, err
	}
	if err := a.leases(state); err != nil {
		return nil, err
	}
	a.guard.look(ctx)
	reserve := opts.StoreReserve
	if reserve <= 0 {
		reserve = -1
	}
	a.store, err = recoverypoint.Open(filepath.Join(opts.StateDir, "replicas"), recoverypoint.Options{
		Reserve: reserve, RunDir: filepath.Join(opts.RunDir, "nbd"), // a private folder: QEMU must reach the other one
	})
	if err != nil {
		return nil, err
	}
	a.lis, err = (&net.ListenConfig{}).Listen(ctx, "tcp", opts.LinkListen)
	if err != nil {
		return nil, model.Fail(model.InvalidArgument, err, "cannot listen on %s for replicas", opts.LinkListen).WithHost(opts.Host).
			WithTry("understudy agent --link-listen HOST:PORT; is another agent running?")
	}
	a.link = link.NewServer(receiving{a.store}, state, opts.Host, log, workers.LinkServer(a.tls)...)
	a.link.Respond(a.grant(state))
	a.hv = libvirtrpc.Lazy(opts.LibvirtSocket, log)
	a.out = newOutbox(ctx, log)
	if err := a.openWatcher(); err != nil {
		return nil, err
	}
	a.self = newSelf(opts, advertised(opts, a.lis.Addr()), looking{a.hv}, a.store.Usage, links{a.tls}.Ping)
	a.self.guard, a.self.grantor, a.self.tls = a.guard, state.ID(), a.tls
	a.self.held, a.self.gate = a.holder.View, a.hv.RefusedByHook
	a.self.notified = a.desk.Facts
	source := snapshot.New(a.hv, snapshot.Options{Host: opts.Host, RunDir: opts.RunDir, StateDir: opts.StateDir, ImageDirs: opts.ImageDirs})
	a.watch.dirty, a.watch.memories = source.Dirty, a.hv
	a.self.watch = a.watch
	a.restorer = restore.New(leasing{looking{a.hv}, a.guard, a.holder, state.Get}, a.store, restore.Options{Host: opts.Host, StateDir: opts.StateDir})
	if a.oldTests, err = a.restorer.Tests(); err != nil {
		return nil, err
	}
	a.host = &activities.Host{
		ID: opts.Host, Floors: state, Leases: holding{a.holder, a.guard, opts.StateDir}, Link: links{a.tls}, Store: store{a.store}, Domains: looking{a.hv}, Watcher: a.watch, Self: a.self, Shares: a.share,
		Snapshot: source,
		Restorer: a.restorer,
		Marker:   marks.Lister{HV: a.hv, StateDir: opts.StateDir, RunDir: opts.RunDir, GuardDir: filepath.Join(opts.RunDir, "guard")},
		Reserve:  max(opts.StoreReserve, 0), Now: time.Now,
	}
	return a, nil
}

func (a *agent) openWatcher() error {
	list, entries, err := openWatchlist(filepath.Join(a.opts.StateDir, "watch"), a.log)
	if err != nil {
		return err
	}
	a.watch = &watcher{
		host: a.opts.Host, hv: looking{a.hv}, stopped: a.guard.standsStill, to: a.tell, out: a.out, list: list, load: &hostload.Meter{}, now: time.Now, log: a.log,
		vms: entries, wake: make(chan struct{}, 1), stills: map[string]*still{}, proc: procRoot, local: local,
	}
	a.share = newShares(a.opts.LinkBudget, time.Now, a.watch.exposure, a.watch.served, a.log)
	a.watch.link, a.share.book = a.share, a.watch
	return nil
}

// folders makes what is missing. The state folder holds whole disks, so it is private also when it was made by somebody else.
func folders(opts Options) error {
	if len(opts.RunDir) > maxRunDir {
		return model.Fail(model.InvalidArgument, nil, "--run-dir %s is too long for sockets: at most %d bytes", opts.RunDir, maxRunDir).
			WithTry("understudy agent --run-dir /run/understudy")
	}
	err := os.MkdirAll(opts.StateDir, 0o700)
	if err == nil {
		err = os.Chmod(opts.StateDir, 0o700)
	}
	if err == nil {
		err = os.MkdirAll(opts.RunDir, 0o755)
	}
	if err != nil {
		return model.Fail(model.Internal, err, "cannot make the agent's folders").WithHost(opts.Host).
			WithTry("understudy agent --state-dir FOLDER --run-dir FOLDER, as root")
	}
	return nil
}

// advertised is the receiver's address for others.
func advertised(opts Options, listening net.Addr) string {
	if opts.LinkAdvertise != "" {
		return opts.LinkAdvertise
	}
	host := string(opts.Host)
	port := 0
	if tcp, ok := listening.(*net.TCPAddr); ok {
		port = tcp.Port
		if !tcp.IP.IsUnspecified() {
			host = tcp.IP.String()
		}
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}

// close ends what open began; whatever is missing was not begun.
func (a *agent) close() {
	var errs []error
	if a.renewer != nil {
		errs = append(errs, a.renewer.Close())
	}
	if a.lis != nil {
		_ = a.lis.Close() // closed by the server already, when it ran
	}
	if a.store != nil {
		errs = append(errs, a.store.Close())
	}
	if a.hv != nil {
		errs = append(errs, a.hv.Close())
	}
	if err := errors.Join(errs...); err != nil {
		a.log.Warn("agent_close", "error", fmt.Sprint(err))
	}
}
