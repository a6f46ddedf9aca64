package lease

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/durable"
	"understudy/internal/model"
)

// told is a story of single-writer.md section 8, told twice: by our rules, and with one of them broken. The second must end
// with two running copies, else the first proves nothing.
func told(t *testing.T, story func(t *testing.T, broken bool) *world) {
	t.Helper()
	t.Run("by our rules one copy runs", func(t *testing.T) {
		require.Equal(t, 1, story(t, false).worst)
	})
	t.Run("without the rule two copies run", func(t *testing.T) {
		require.Equal(t, 2, story(t, true).worst)
	})
}

// inPlace is what an agent does with a VM that it holds and that is off.
func (h *host) inPlace() error {
	e, err := h.state.Get(vm.UUID)
	require.NoError(h.w.t, err)
	return h.takeAndStart(Hold{VM: vm, Generation: e.Hold, Mode: e.Mode, Grantors: e.Grantors, Action: e.Action})
}

// forge writes an entry past every rule, and lets the guard believe it.
func (h *host) forge(change func(*Entry)) {
	e, err := h.state.Get(vm.UUID)
	require.NoError(h.w.t, err)
	change(&e)
	require.NoError(h.w.t, durable.WriteJSON(filepath.Join(h.dir, vm.UUID+".json"), e))
	h.guard.rec.Mode = e.Mode
}

func (w *world) forgeRecord(change func(*model.Record)) {
	rec, err := w.records.Read(w.ctx, vm.UUID)
	require.NoError(w.t, err)
	change(&rec)
	require.NoError(w.t, durable.WriteJSON(filepath.Join(w.dir, control, vm.UUID+".json"), rec))
}

// failedOver is generation 2 on probation on host-b, after host-a's power was cut.
func failedOver(t *testing.T) *world {
	w := leased(t)
	w.claim(2, 1, "host-b")
	w.seal(2, "host-b")
	w.hosts["host-a"].powerOff()
	w.mustPermit(2, "host-b", evidence(2))
	w.mustStart(2, "host-b")
	w.hosts["host-a"].boot()
	require.Error(t, w.hosts["host-a"].inPlace())
	return w
}

// takeBackByLease is a takeover of generation g by host-a that rests on W alone.
func (w *world) takeBackByLease(g model.Generation) {
	w.t.Helper()
	w.claim(g, g-1, "host-a")
	w.seal(g, "host-a")
	w.run(w.terms.Wait() + time.Second)
	require.True(w.t, w.hosts["host-a"].waited(g, attempt(g), w.terms.Wait()))
	w.mustPermit(g, "host-a", expired(g))
	w.mustStart(g, "host-a")
	w.run(5 * time.Second)
}

func (w *world) restart(id model.HostID) { w.hosts[id].startAgent() }
