package agent

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/internal/durable"
	"understudy/internal/guard"
	"understudy/internal/lease"
	"understudy/internal/lease/leasetest"
	"understudy/internal/model"
)

var leasedVM = model.VMRef{Name: "db1", UUID: "8a3c1d6e-0f5b-4c7a-9d2e-1b6f5a4c3d2e"}

// yes grants everything.
type yes struct{}

func (yes) Renew(_ context.Context, to model.Grantor, in lease.RenewIn) (lease.RenewOut, error) {
	out := lease.RenewOut{Grantor: to.ID}
	for _, a := range in.Asks {
		out.Answers = append(out.Answers, lease.Answer{VM: a.VM, Nonce: a.Nonce, Granted: true, Floor: a.Generation})
	}
	return out, nil
}

// leaseFixture is an agent's lease parts on a host whose guard does not answer.
type leaseFixture struct {
	clock  *leasetest.Clock
	state  *lease.State
	guard  *guarded
	holder *lease.Holder
	dir    string
	paused bool
}

func leaseParts(t *testing.T) *leaseFixture {
	t.Helper()
	f := &leaseFixture{clock: leasetest.NewClock("boot"), dir: t.TempDir()}
	var err error
	f.state, err = lease.OpenState(filepath.Join(f.dir, "floors"), "host-a")
	require.NoError(t, err)
	log := slog.New(slog.DiscardHandler)
	f.guard = newGuarded(Options{RunDir: f.dir, LeaseTTL: model.LeaseTTL, LeaseRenew: model.LeaseRenew}, log)
	f.guard.entry, f.guard.moving = f.state.Get, func(string) bool { return f.paused }
	f.holder = lease.NewHolder(lease.HolderOptions{Host: "host-a", State: f.state, Clock: f.clock, Guard: f.guard, Renewer: yes{}, Terms: f.guard.terms, Log: log})
	return f
}

func TestAHostWithoutAGuardHasLevelNoneAndSaysWhy(t *testing.T) {
	f := leaseParts(t)
	f.guard.look(t.Context())
	require.Zero(t, f.guard.terms().GuardLevel)
	require.Zero(t, f.guard.terms().Wait(), "no wait proves anything about it")
	require.Equal(t, model.LeaseTTL, f.guard.terms().TTL)
	s := &self{guard: f.guard, opts: Options{StateDir: f.dir}}
	c := s.guardLevel()
	require.True(t, c.OK)
	require.Contains(t, c.Detail, "only by a fence device or a person")
	require.NotEmpty(t, c.Try)

	require.NoError(t, os.MkdirAll(filepath.Dir(guard.ListFile(f.dir)), 0o700))
	require.NoError(t, durable.WriteJSON(guard.ListFile(f.dir), map[string][]string{"uuids": {leasedVM.UUID}}))
	c = s.guardLevel()
	require.False(t, c.OK, "it has stopped: the host had one")
	require.Contains(t, c.Detail, "leases of 1 VMs")

	f.guard.state = model.GuardState{Level: 2, DStop: 5 * model.GuardDStop}
	require.Greater(t, f.guard.terms().Wait(), model.DefaultTerms(2).Wait(), "the wait follows the longest stop")
	require.False(t, s.guardLevel().OK)
}

// The start is refused by a kind that is tried again: the next try asks for another grant.
func TestAStartThatWasSlowerThanItsGrantIsTriedAgain(t *testing.T) {
	f := leaseParts(t)
	l := leasing{guard: f.guard, holder: f.holder, entry: f.state.Get}
	k := lease.Hold{VM: leasedVM, Generation: 2, Mode: model.ModeSole, Grantors: []model.Grantor{{Address: "control:7460", ID: "c"}}}
	require.NoError(t, f.holder.Take(t.Context(), k))
	f.clock.Advance(model.LeaseTTL)
	require.Equal(t, model.Unreachable, model.KindOf(l.Start(t.Context(), leasedVM.UUID)))
	require.NoError(t, f.holder.Take(t.Context(), k))
	require.NoError(t, f.holder.MayRun(leasedVM.UUID, 2))
}

func TestAVMThatIsBeingMovedIsLeftToItsDeadlineIfItHasOne(t *testing.T) {
	f := leaseParts(t)
	k := lease.Hold{VM: leasedVM, Generation: 2, Mode: model.ModeProbation, Grantors: []model.Grantor{{Address: "control:7460", ID: "c"}}}
	f.guard.state.Level = 1
	require.Error(t, f.holder.Take(t.Context(), k), "it is held durably, then the guard does not answer")
	e, err := f.state.Get(leasedVM.UUID)
	require.NoError(t, err)
	require.Equal(t, model.ModeProbation, e.Mode)
	frozen := func() error { return f.guard.Freeze(t.Context(), leasedVM.UUID, 2) } // an error: the guard was asked
	require.Error(t, frozen())
	f.paused = true
	require.NoError(t, frozen())

	f.guard.state.Level = 0
	k.Mode = model.ModeSole
	require.NoError(t, f.holder.SetMode(t.Context(), k))
	require.Error(t, frozen(), "a sole copy has no deadline that would stop it")
}

func TestAVMIsNotDroppedWhileAGuardThatIsAwayKeepsItOnItsList(t *testing.T) {
	f := leaseParts(t)
	h := holding{f.holder, f.guard, f.dir}
	require.NoError(t, f.state.Admit(leasedVM, 3))
	list := guard.ListFile(f.dir)
	require.NoError(t, os.MkdirAll(filepath.Dir(list), 0o700))
	require.NoError(t, os.WriteFile(list, []byte(`{"uuids":["`+leasedVM.UUID+`"]}`), 0o600))
	require.True(t, guard.Away(h.Drop(t.Context(), leasedVM)))
	e, err := f.state.Get(leasedVM.UUID)
	require.NoError(t, err)
	require.EqualValues(t, 3, e.Generation)

	require.NoError(t, os.WriteFile(list, []byte(`{"uuids":[]}`), 0o600))
	require.NoError(t, h.Drop(t.Context(), leasedVM))
	e, err = f.state.Get(leasedVM.UUID)
	require.NoError(t, err)
	require.Zero(t, e.Generation)
}

func TestOnlyAVMWithoutAnyCopyThatRunsStandsStill(t *testing.T) {
	copies := func(states ...string) (out []guard.Copy) {
		for _, s := range states {
			out = append(out, guard.Copy{State: s})
		}
		return out
	}
	got := standing([]guard.Entry{
		{UUID: "none"}, {UUID: "runs", Copies: copies("running")}, {UUID: "thaws", Copies: copies("thawing")},
		{UUID: "frozen", Copies: copies("frozen")}, {UUID: "dies", Copies: copies("killing")}, {UUID: "one of two", Copies: copies("frozen", "running")},
	})
	require.Equal(t, map[string]bool{"frozen": true, "dies": true}, got)
}
