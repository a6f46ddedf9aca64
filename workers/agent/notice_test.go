package agent

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"understudy/activities"
	"understudy/internal/hypervisor"
	"understudy/internal/hypervisor/fake"
	"understudy/internal/model"
)

func (p *plane) why() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, u := range p.util {
		out = append(out, u.Why)
	}
	return out
}

func (p *plane) hasTold(part string) func() bool {
	return func() bool { return strings.Contains(strings.Join(p.why(), "\n"), part) }
}

func TestALoopThatIsStuckIsSeenByTheAgentOncePerLevel(t *testing.T) {
	r := newRig(t, filepath.Join(t.TempDir(), "watch"), running(), &plane{away: true}) // the server is stuck too
	var said bytes.Buffer
	r.log = slog.New(slog.NewTextHandler(&said, nil))
	r.cycle(t, 1)
	r.Serve(activities.Watched{VM: db1, Generation: 1, RPO: 30 * time.Second, Committed: model.PointRef{Generation: 1, Seq: 1}})
	for range 60 { // two minutes in which no point is made
		r.tick(t, 4096)
		r.guard()
	}
	require.Equal(t, 2, strings.Count(said.String(), "rpo_violated"), said.String())
	require.Equal(t, []string{"db1"}, r.late())
	r.plane.set(false)
	require.Eventually(t, r.plane.hasTold("the target is 30s"), 10*time.Second, 10*time.Millisecond)
	r.plane.mu.Lock()
	require.NotNil(t, r.plane.util[len(r.plane.util)-1].Observation.AtRisk)
	r.plane.mu.Unlock()

	r.cycle(t, 2)
	r.guard()
	require.Empty(t, r.late(), "a verified point ends it")
	said.Reset()
	for range 20 {
		r.tick(t, 4096)
		r.guard()
	}
	require.Equal(t, 1, strings.Count(said.String(), "rpo_violated"), "the next one is said again")
}

func TestTheAgentKeepsWatchWhenLibvirtDoesNotAnswer(t *testing.T) {
	hv := running()
	r := newRig(t, filepath.Join(t.TempDir(), "watch"), hv, &plane{})
	r.cycle(t, 1)
	r.tick(t, 4096)
	hv.set(func(l *libvirt) { l.down = true })
	require.Error(t, r.sample(context.Background(), ""))
	r.clock = r.clock.Add(time.Minute)
	r.guard()
	require.Eventually(t, r.plane.hasTold("in no verified point"), 5*time.Second, time.Millisecond)
}

func TestASignalCarriesAFreshCountOfDirtyBytesAndGrowthIsTold(t *testing.T) {
	r := newRig(t, filepath.Join(t.TempDir(), "watch"), running(), &plane{})
	dirty, asked := int64(0), 0
	r.dirty = func(_ context.Context, vm model.VMRef, of model.PointRef) (int64, error) {
		require.Equal(t, db1, vm)
		require.Equal(t, model.Seq(1), of.Seq)
		asked++
		return dirty, nil
	}
	r.cycle(t, 1)
	grow := func(n int64, times int) {
		for range times {
			dirty += n
			r.tick(t, 8<<20) // always 4 MiB/s by the counters
			r.growth(context.Background())
		}
	}
	grow(0, 1)
	require.Eventually(t, r.plane.hasTold("first write"), 5*time.Second, time.Millisecond)
	grow(64<<10, 15) // nearly all of it rewrites
	before := asked
	require.Less(t, before, 17, "not with each sample")
	grow(8<<20, 8) // all of it new
	require.Eventually(t, r.plane.hasTold("for the first time"), 5*time.Second, time.Millisecond)
	r.plane.mu.Lock()
	o := r.plane.util[len(r.plane.util)-1].Observation
	r.plane.mu.Unlock()
	require.Positive(t, o.DirtyBytes)
	require.NotNil(t, o.DirtyAt)
	require.Greater(t, o.DirtyRate, 2e6)
}

func TestAHostThatBecomesBusyIsToldOnceAndSoIsItsEnd(t *testing.T) {
	var b bands
	at := t0
	step := func(io float64, d time.Duration) string {
		at = at.Add(d)
		return b.changed(model.HostLoad{PressureCPU: -1, PressureMemory: -1, PressureIO: io}, at)
	}
	require.Empty(t, step(0.1, time.Second))
	require.Contains(t, step(0.6, time.Second), "disks")
	for range 100 {
		require.Empty(t, step(0.3, 2*time.Second)+step(0.6, 2*time.Second), "between the thresholds nothing changes")
	}
	require.Contains(t, step(0.1, time.Second), "no more")
	require.Empty(t, step(0.9, time.Second), "it must last: it is told to every VM")
	require.NotEmpty(t, step(0.9, bandHold))
}

// Counters, dirty bytes, pressure and exposure all change for the worst with each sample.
func TestNoVMCanMakeItsAgentExceedTheEventBudget(t *testing.T) {
	const rpo, hours = 30 * time.Second, 2
	r := newRig(t, filepath.Join(t.TempDir(), "watch"), running(), &plane{})
	sent := 0
	n, dirty := 0, int64(0)
	r.dirty = func(context.Context, model.VMRef, model.PointRef) (int64, error) { return dirty, nil }
	r.cycle(t, 1)
	e := r.vms[db1.UUID]
	e.RPO = rpo
	for end := r.clock.Add(hours * time.Hour); r.clock.Before(end); n++ {
		r.clock = r.clock.Add(time.Second)
		wrote := int64(1) << (20 + 8*(n%2))
		dirty += wrote
		r.hv.set(func(l *libvirt) { l.stats.WriteBytes += wrote; l.stats.WriteReqs++; l.stats.CPUTime++ })
		before := e.budget.sent
		require.NoError(t, r.sample(context.Background(), ""))
		r.guard()
		r.growth(context.Background())
		if !e.budget.sent.Equal(before) {
			sent++
		}
		if n%7 == 0 {
			e.Meter.verified(model.PointRef{Generation: 1, Seq: 1})
			e.Meter.Since = tally{} // as if a point was made: the next write is a first one
		}
	}
	require.LessOrEqual(t, float64(sent), hours*anHour(rpo)+1)
	require.Greater(t, sent, 100)
}

func TestManyVMsAreSampledMoreSlowlyBecauseLibvirtPaysForEach(t *testing.T) {
	w := &watcher{vms: map[string]*entry{}}
	fill := func(n int, rpo time.Duration) *watcher {
		for i := range n {
			w.vms[fmt.Sprint(i)] = &entry{RPO: rpo}
		}
		return w
	}
	require.Equal(t, 250*time.Millisecond, fill(1, 10*time.Second).period())
	require.Equal(t, 1250*time.Millisecond, fill(50, 10*time.Second).period(), "an eighth of the target at most")
	require.Equal(t, 5*time.Second, fill(50, time.Minute).period(), "50 VMs of half a millisecond: half a percent of a core")
	require.Equal(t, slowestRound, fill(500, time.Hour).period())
}

// The count is of this process, with a hypervisor that costs nothing; what libvirtd itself uses is measured in the lab.
func TestSamplingFiftyVMsCostsLessThanHalfAPercentOfACore(t *testing.T) {
	const vms, rounds, rpo = 50, 60, 10 * time.Second
	ctx := context.Background()
	hv := fake.New()
	r := newRig(t, filepath.Join(t.TempDir(), "watch"), running(), &plane{})
	r.watcher.hv = hv
	r.dirty = func(context.Context, model.VMRef, model.PointRef) (int64, error) { return 1 << 20, nil }
	var uuids []string
	for i := range vms {
		uuid := fmt.Sprintf("11111111-2222-3333-4444-%012d", i)
		image := filepath.Join(t.TempDir(), "disk.qcow2")
		require.NoError(t, hv.CreateImage(image, model.FormatQCOW2, 1<<30))
		_, err := hv.Define(ctx, fmt.Sprintf(`<domain type='qemu'><name>vm%d</name><uuid>%s</uuid><memory>1</memory><devices>`+
			`<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='%s'/><target dev='vda'/></disk></devices></domain>`, i, uuid, image))
		require.NoError(t, err)
		require.NoError(t, hv.Start(ctx, uuid))
		r.Serve(activities.Watched{VM: model.VMRef{Name: fmt.Sprintf("vm%d", i), UUID: uuid}, Generation: 1, RPO: rpo, Committed: model.PointRef{Generation: 1, Seq: 1}})
		r.vms[uuid].Blind = false
		uuids = append(uuids, uuid)
	}
	round := func() {
		r.clock = r.clock.Add(r.period())
		require.NoError(t, r.sample(ctx, ""))
		r.guard()
		r.growth(ctx)
	}
	round()
	for _, uuid := range uuids {
		require.NoError(t, hv.Write(uuid, "vda", make([]byte, 4096), 0))
	}
	round() // the first writes are saved and told
	round()
	begun := cpuTime(t)
	for range rounds {
		for i := range vms / 10 { // some of them write
			require.NoError(t, hv.Write(uuids[i], "vda", []byte{1}, 0))
		}
		r.load.Forget() // as dear as after a while
		round()
	}
	each := (cpuTime(t) - begun) / rounds
	share := each.Seconds() / r.period().Seconds()
	t.Logf("%d VMs with an RPO of %s: %s of CPU every %s, %.3f %% of a core", vms, rpo, each, r.period(), share*100)
	require.Less(t, share, 0.005)
}

func cpuTime(t *testing.T) time.Duration {
	var u unix.Rusage
	require.NoError(t, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

var _ counters = hypervisor.Hypervisor(nil)
