package recoverypoint

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/internal/model"
)

var errDied = errors.New("the agent died here")

// fault lets the store fail at step n (from 0), once or from there on, and notes the steps.
type fault struct {
	mu    sync.Mutex
	n     int
	once  bool
	steps []string
}

func (f *fault) at(step string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := len(f.steps)
	f.steps = append(f.steps, step)
	if i == f.n || i > f.n && !f.once {
		return fmt.Errorf("%s: %w", step, errDied)
	}
	return nil
}

// baseline is a replica of three points whose next point has a grown disk, a new one, and a new base.
func baseline(t *testing.T) *rig {
	g := newRig(t)
	g.disks["vda"], g.disks["vdb"] = make([]byte, mib), make([]byte, mib)
	g.write("vda", 0, mib/2)
	g.write("vdb", 0, mib/2)
	g.cycle(1, 0)
	g.write("vda", 4096, 30000)
	g.cycle(2, 1)
	g.write("vdb", 40960, 4096)
	g.cycle(3, 2)
	g.disks["vda"] = append(g.disks["vda"], make([]byte, mib/2)...)
	g.write("vda", mib-4096, 8192)
	clear(g.disks["vda"][4096:20480])
	g.write("vdb", 300*1024, 70000)
	g.disks["vdc"] = make([]byte, mib/2)
	g.write("vdc", 4096, 4096)
	g.remember(4)
	return g
}

// last is the work that is cut off: a point, its proof and commit, and retention.
func (g *rig) last() error {
	spec := g.spec(4, 3, "vdb", "vdc")
	if err := g.receive(spec); err != nil {
		return err
	}
	if err := g.proveAndCommit(spec); err != nil {
		return err
	}
	_, _, err := g.store.Prune(context.Background(), vm1, 2)
	return err
}

// goOn does what is left and checks that the replica is as if nothing had happened.
func (g *rig) goOn() {
	g.t.Helper()
	g.listed() // whatever is unsettled is settled by the next use
	g.checkPoints()
	if begun, _ := exists(g.store.vms[vm1.UUID].home.plan()); begun { // files may wait for the rest of the plan
		_, _, err := g.store.Prune(context.Background(), vm1, 3)
		require.NoError(g.t, err)
	}
	g.checkAll()
	if listed := g.listed(); listed[len(listed)-1] < 4 {
		require.NoError(g.t, g.receive(g.spec(4, 3, "vdb", "vdc")))
	}
	require.NoError(g.t, g.proveAndCommit(g.spec(4, 3, "vdb", "vdc")))
	g.checkAll()
	g.write("vdb", 0, 5000)
	g.write("vdc", 0, 5000)
	g.cycle(5, 4)
	_, postponed, err := g.store.Prune(context.Background(), vm1, 2)
	require.NoError(g.t, err)
	require.Empty(g.t, postponed)
	require.Equal(g.t, []model.Seq{4, 5}, g.listed())
	g.checkAll()
}

func TestACrashAtEveryStepLosesNothingThatIsListed(t *testing.T) {
	if testing.Short() {
		t.Skip("opens a store some hundred times")
	}
	base := baseline(t)
	var steps []string
	crash := func(n int, once bool) (done bool) {
		g := base.copyRig()
		f := &fault{n: n, once: once}
		g.fault = f.at
		g.open()
		err := g.last()
		if done = len(f.steps) <= n; done {
			require.NoError(t, err)
		}
		steps, f.n = f.steps, -1
		if !once { // the process is dead; another one opens the store
			g.fault = nil
			g.reopen()
			g.store.plans.Wait()
		} else {
			g.store.opts.Fault = nil
		}
		g.goOn()
		require.NoError(t, g.store.Close())
		return done
	}
	n := 0
	for ; !crash(n, false); n++ {
		t.Logf("died at step %d, %s", n, steps[n])
	}
	seen := map[string]bool{}
	for i, name := range slices.Clone(steps) { // the process lives on: each kind of step once
		if !seen[name] {
			seen[name] = true
			crash(i, true)
			t.Logf("failed at step %d, %s", i, name)
		}
	}
}

// A second crash while the first one is being repaired.
func TestACrashDuringRecoveryIsRecoveredFromToo(t *testing.T) {
	if testing.Short() {
		t.Skip("opens a store some dozen times")
	}
	base := baseline(t)
	for _, first := range []string{"manifest", "manifest-written", "move-vdb"} {
		for n := 0; ; n++ {
			g := base.copyRig()
			var died atomic.Bool
			g.fault = func(step string) error {
				if step == first {
					died.Store(true)
				}
				if died.Load() {
					return errDied
				}
				return nil
			}
			g.open()
			_ = g.last()
			require.True(t, died.Load())
			require.NoError(t, g.store.Close())

			f := &fault{n: n}
			g.fault = f.at
			s, err := Open(g.root, Options{Reserve: -1, BootID: g.boot, Fault: g.fault})
			require.NoError(t, err)
			require.NoError(t, s.Close())
			g.fault = nil
			g.open()
			g.goOn()
			require.NoError(t, g.store.Close())
			if len(f.steps) <= n {
				break
			}
		}
	}
}
