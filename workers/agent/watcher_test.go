package agent

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/activities"
	"understudy/internal/contract"
	"understudy/internal/hostload"
	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

var db1 = model.VMRef{Name: "db1", UUID: "11111111-2222-3333-4444-555555555555"}

// libvirt is a libvirtd with at most one VM.
type libvirt struct {
	mu     sync.Mutex
	stats  hypervisor.Stats
	domain *hypervisor.Domain
	down   bool
}

func (l *libvirt) set(f func(*libvirt)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(l)
}

func (l *libvirt) Stats(context.Context, hypervisor.StatsQuery) ([]hypervisor.Stats, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.down:
		return nil, model.Fail(model.Unreachable, nil, "libvirtd is away")
	case l.domain == nil || !l.domain.State.Active():
		return nil, nil
	}
	return []hypervisor.Stats{l.stats}, nil
}

func (l *libvirt) Domains(context.Context) ([]hypervisor.Domain, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.down:
		return nil, model.Fail(model.Unreachable, nil, "libvirtd is away")
	case l.domain == nil:
		return nil, nil
	}
	return []hypervisor.Domain{*l.domain}, nil
}

func (l *libvirt) Domain(ctx context.Context, _ string) (hypervisor.Domain, error) {
	list, err := l.Domains(ctx)
	if err != nil || len(list) == 0 {
		return hypervisor.Domain{}, model.Fail(model.NotFound, err, "no such domain")
	}
	return list[0], nil
}

// plane is a control plane that can be away.
type plane struct {
	mu     sync.Mutex
	away   bool
	gone   bool // the protection ended
	util   []contract.UtilizationIn
	events []contract.VMEventIn
}

func (p *plane) answer(take func()) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.away:
		return errors.New("connection refused")
	case p.gone:
		return model.Fail(model.NotFound, nil, "no such workflow")
	}
	take()
	return nil
}

func (p *plane) Utilization(_ context.Context, _ string, in contract.UtilizationIn) error {
	return p.answer(func() { p.util = append(p.util, in) })
}

func (p *plane) Event(_ context.Context, _ string, in contract.VMEventIn) error {
	return p.answer(func() { p.events = append(p.events, in) })
}

func (p *plane) told() []model.EventKind {
	p.mu.Lock()
	defer p.mu.Unlock()
	var kinds []model.EventKind
	for _, e := range p.events {
		kinds = append(kinds, e.Event.Kind)
	}
	return kinds
}

func (p *plane) set(away bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.away = away
}

type rig struct {
	*watcher
	hv    *libvirt
	plane *plane
	dir   string
	clock time.Time
}

func newRig(t *testing.T, dir string, hv *libvirt, p *plane) *rig {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	log := slog.New(slog.DiscardHandler)
	list, entries, err := openWatchlist(dir, log)
	require.NoError(t, err)
	r := &rig{hv: hv, plane: p, dir: dir, clock: time.Now()}
	r.watcher = &watcher{
		host: "host-a", hv: hv, to: p, out: newOutbox(ctx, log), list: list, load: &hostload.Meter{}, log: log,
		now: func() time.Time { return r.clock }, vms: entries, wake: make(chan struct{}, 1), stills: map[string]*still{},
	}
	r.link = newShares(0, r.now, r.exposure, r.served, log)
	t.Cleanup(func() { cancel(); r.out.wait() })
	return r
}

func running() *libvirt {
	return &libvirt{stats: hypervisor.Stats{UUID: db1.UUID, WriteBytes: 1000, WriteReqs: 1, CPUTime: time.Minute}, domain: &hypervisor.Domain{VM: db1, State: hypervisor.Running}}
}

func (r *rig) tick(t *testing.T, wrote int64) {
	t.Helper()
	r.clock = r.clock.Add(2 * time.Second)
	r.hv.set(func(l *libvirt) {
		l.stats.WriteBytes += wrote
		l.stats.WriteReqs += wrote / 512
		l.stats.CPUTime += time.Millisecond
	})
	require.NoError(t, r.sample(context.Background(), ""))
}

func (r *rig) cycle(t *testing.T, seq model.Seq) {
	t.Helper()
	p := model.PointRef{Generation: 1, Seq: seq}
	r.Serve(activities.Watched{VM: db1, Generation: 1, RPO: 30 * time.Second})
	r.Capturing(context.Background(), db1, p)
	r.Captured(db1, p, r.clock)
	r.Verified(db1, p)
}

func TestTheFirstWriteOfAnIdleVMIsToldOnceAndNothingElse(t *testing.T) {
	r := newRig(t, filepath.Join(t.TempDir(), "watch"), running(), &plane{})
	r.cycle(t, 1)
	r.tick(t, 0)
	before := r.clock
	r.tick(t, 4096)
	r.tick(t, 4096)
	r.tick(t, 4096)
	require.Eventually(t, func() bool { r.plane.mu.Lock(); defer r.plane.mu.Unlock(); return len(r.plane.util) > 0 }, 5*time.Second, time.Millisecond)
	time.Sleep(20 * time.Millisecond)
	require.Len(t, r.plane.util, 1)
	require.WithinDuration(t, before, *r.plane.util[0].Observation.OldestWrite, 0, "one sample earlier")
}

// Where an answer on its way tells what is written after a capture, a signal would cost the protection and say nothing new.
func TestAFirstWriteIsNotSignalledWhileAnAnswerIsToTellIt(t *testing.T) {
	told := func(r *rig) int { r.out.wait(); r.plane.mu.Lock(); defer r.plane.mu.Unlock(); return len(r.plane.util) }
	capture := func(r *rig, seq model.Seq) model.PointRef {
		p := model.PointRef{Generation: 1, Seq: seq}
		r.Serve(activities.Watched{VM: db1, Generation: 1, RPO: 30 * time.Second})
		r.Answering(db1, p)
		r.Capturing(context.Background(), db1, p)
		r.Captured(db1, p, r.clock)
		return p
	}
	for name, c := range map[string]struct {
		happens func(r *rig, p model.PointRef)
		want    int
	}{
		"the answer tells it": {func(r *rig, p model.PointRef) {
			r.Answering(db1, p)
			r.Verified(db1, p)
			require.NoError(t, r.sample(context.Background(), ""), "a sample in the middle")
			require.Zero(t, told(r))
			o, err := r.Observe(context.Background(), db1)
			require.NoError(t, err)
			require.NotNil(t, o.OldestWrite)
		}, 0},
		"it is settled and the look fails": {func(r *rig, p model.PointRef) { r.Answering(db1, p); r.Verified(db1, p); r.tick(t, 4096) }, 1},
		"it is settled without a look":     {func(r *rig, p model.PointRef) { r.Verified(db1, p) }, 1},
		"the capture is given up":          {func(r *rig, p model.PointRef) { r.Abandoned(db1, p) }, 1},
		"nobody settles it": {func(r *rig, _ model.PointRef) {
			for range 20 {
				r.tick(t, 4096)
			}
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, filepath.Join(t.TempDir(), "watch"), running(), &plane{})
			r.cycle(t, 1)
			p := capture(r, 2)
			r.tick(t, 4096)
			r.tick(t, 4096)
			require.Zero(t, told(r))
			c.happens(r, p)
			r.tick(t, 4096)
			require.Equal(t, c.want, told(r))
		})
	}
}

func TestASealedHostTellsNothingAndGoesOnCounting(t *testing.T) {
	r := newRig(t, filepath.Join(t.TempDir(), "watch"), running(), &plane{})
	r.cycle(t, 1)
	r.Yield(db1, 2)
	r.tick(t, 4096)
	r.happened(model.Event{VM: db1, Kind: model.EventStopped}, true)
	time.Sleep(20 * time.Millisecond)
	require.Empty(t, r.plane.util)
	require.Empty(t, r.plane.told())
	r.Serve(activities.Watched{VM: db1, Generation: 3})
	o, err := r.Observe(context.Background(), db1)
	require.NoError(t, err)
	require.NotNil(t, o.OldestWrite, "it was written meanwhile")
}

func TestACrashIsToldWhenTheControlPlaneIsBackAlsoByTheNextAgent(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "watch")
	hv, p := running(), &plane{away: true}
	r := newRig(t, dir, hv, p)
	r.cycle(t, 1)
	hv.set(func(l *libvirt) { l.domain.State, l.domain.Reason = hypervisor.ShutOff, "unknown" })
	r.happened(model.Event{VM: db1, Kind: model.EventCrashed}, true)
	r.happened(model.Event{VM: db1, Kind: model.EventStopped}, true) // libvirt says both
	require.Eventually(t, func() bool { return r.out.holds("event/" + db1.UUID) }, 5*time.Second, time.Millisecond)

	next := newRig(t, dir, hv, p) // the agent died before anybody answered
	require.True(t, next.compare(context.Background()))
	p.set(false)
	require.Eventually(t, func() bool { return len(p.told()) >= 2 }, 10*time.Second, 10*time.Millisecond)
	require.ElementsMatch(t, []model.EventKind{model.EventCrashed, model.EventVanished}, p.told())

	require.Eventually(t, func() bool { next.mu.Lock(); defer next.mu.Unlock(); return !next.vms[db1.UUID].Runs }, 10*time.Second, time.Millisecond, "it is saved that it was delivered")
	require.Eventually(t, func() bool { return !r.out.holds("event/" + db1.UUID) }, 10*time.Second, time.Millisecond)

	last := newRig(t, dir, hv, p)
	require.True(t, last.compare(context.Background()))
	time.Sleep(20 * time.Millisecond)
	require.Len(t, p.told(), 2, "it was delivered; nothing new happened")
}

func TestAVMThatWasShutDownOnPurposeHasNotVanished(t *testing.T) {
	hv, p := running(), &plane{}
	r := newRig(t, filepath.Join(t.TempDir(), "watch"), hv, p)
	r.cycle(t, 1)
	hv.set(func(l *libvirt) { l.down = true })
	require.False(t, r.compare(context.Background()), "asked again later")
	hv.set(func(l *libvirt) { l.down = false; l.domain.State, l.domain.Reason = hypervisor.ShutOff, "shutdown" })
	require.True(t, r.compare(context.Background()))
	require.Eventually(t, func() bool { return len(p.told()) == 1 }, 5*time.Second, time.Millisecond)
	require.Equal(t, model.EventStopped, p.told()[0])
}

func TestNobodyIsTroubledForAProtectionThatEnded(t *testing.T) {
	p := &plane{gone: true}
	r := newRig(t, filepath.Join(t.TempDir(), "watch"), running(), p)
	r.cycle(t, 1)
	r.happened(model.Event{VM: db1, Kind: model.EventPaused}, true)
	require.Eventually(t, func() bool { return !r.out.holds("event/" + db1.UUID) }, 5*time.Second, time.Millisecond)
	require.NoError(t, r.Forget(db1))
	again := newRig(t, r.dir, r.hv, p)
	require.Empty(t, again.vms)
}

func TestCountersThatDoNotAnswerMakeExposureLongerNotShorter(t *testing.T) {
	r := newRig(t, filepath.Join(t.TempDir(), "watch"), running(), &plane{})
	r.cycle(t, 1)
	r.tick(t, 0)
	sampled := r.clock
	r.clock = r.clock.Add(10 * time.Second)
	r.hv.set(func(l *libvirt) { l.stats.WriteBytes += 5000; l.down = true })
	p := model.PointRef{Generation: 1, Seq: 2}
	r.Capturing(context.Background(), db1, p)
	r.Captured(db1, p, r.clock)
	r.Verified(db1, p)
	r.hv.set(func(l *libvirt) { l.down = false })
	r.tick(t, 0)
	require.WithinDuration(t, sampled, *r.vms[db1.UUID].Meter.exposure(), 0)
}

func TestAVMThatComesBackIsNotChargedWithItsFormerLife(t *testing.T) {
	r := newRig(t, filepath.Join(t.TempDir(), "watch"), running(), &plane{})
	r.cycle(t, 1)
	r.tick(t, 4096) // it wrote, the host died, another host took over and gave it back
	started := r.clock.Add(time.Minute)
	r.clock = started
	r.Serve(activities.Watched{VM: db1, Generation: 3, Started: started})
	require.Nil(t, r.vms[db1.UUID].Meter.exposure())
	r.tick(t, 4096)
	require.WithinDuration(t, started, *r.vms[db1.UUID].Meter.exposure(), 0)
	r.Serve(activities.Watched{VM: db1, Generation: 3, Started: r.clock}) // the answer of start was lost
	require.WithinDuration(t, started, *r.vms[db1.UUID].Meter.exposure(), 0)
}
