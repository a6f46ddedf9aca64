package workflows

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// writes says that vCPUs execute guest code: a frozen copy is not running.
func (h *fakeHost) writes() bool { return h.running && !h.frozen }

func (w *world) terms() model.LeaseTerms { return model.DefaultTerms(w.guards) }

func (w *world) grantor() *model.Grantor {
	if w.guards == 0 {
		return nil
	}
	if w.moved != nil {
		return w.moved
	}
	return &model.Grantor{Address: "control:7460", ID: "g-control"}
}

// serveLeases are the holder and its guard: a copy that has a deadline and hears from nobody is frozen before W is over.
func (w *world) serveLeases() {
	serve(w, contract.Hold, func(h *fakeHost, in contract.HoldIn) (contract.HoldOut, error) {
		if err := h.admit(in.Fence); err != nil {
			return contract.HoldOut{}, err
		}
		if in.Mode == model.ModeLeased && w.guards == 0 {
			return contract.HoldOut{}, refusal(model.Refused)
		}
		h.bound, h.seen = in.Mode == model.ModeLeased, in.Mode
		return contract.HoldOut{Terms: w.terms()}, nil
	})
	serve(w, contract.AwaitLease, func(h *fakeHost, in contract.AwaitLeaseIn) (contract.EvidenceOut, error) {
		if err := h.admit(in.Fence); err != nil {
			return contract.EvidenceOut{}, err
		}
		if in.Wait != w.terms().Wait() {
			w.t.Errorf("a wait of %s, not of the holder's %s", in.Wait, w.terms().Wait())
		}
		for _, other := range w.hosts {
			if other != h && other.bound {
				other.frozen = true
			}
		}
		return w.evidence(model.EvidenceLeaseExpired, in.Generation)
	})
}

func TestAProtectionIsBoundByALeaseWhenThereIsSomethingToFailOverTo(t *testing.T) {
	w := newWorld(t).connect()
	w.guards = 2
	var early, st contract.ProtectState
	w.hooks["snapshot"] = func(context.Context) {
		if w.count("snapshot") == 1 {
			early = w.state()
		}
	}
	w.at(59*time.Second, func() { st = w.state() })
	w.protect(protectIn(policy()), time.Minute)
	require.Equal(t, model.ModeSole, early.Lease.Mode, "nothing to fail over to yet: a deadline would only hurt")
	require.Zero(t, early.Lease.Wait())
	require.Equal(t, model.ModeLeased, st.Lease.Mode)
	require.Equal(t, 22*time.Second, st.Lease.Wait())
	require.Equal(t, []model.Grantor{{Host: hostB, Address: "host-b:7450", ID: "g-host-b"}, *w.grantor()}, st.Lease.Grantors)
	require.Equal(t, model.ModeLeased, w.record().Mode)
	require.Equal(t, 2, w.count("hold"), "adopted, then bound, and left alone")
}

// The server moved: whoever holds a VM asks there from now on, in the mode that it has.
func TestAHolderFollowsTheControlPlaneToItsNewAddress(t *testing.T) {
	there := model.Grantor{Address: "elsewhere:7460", ID: "g-control"}
	for name, c := range map[string]struct {
		change func(*world, *model.Policy)
		mode   model.LeaseMode
		want   []model.Grantor
	}{
		"leased": {func(*world, *model.Policy) {}, model.ModeLeased, []model.Grantor{{Host: hostB, Address: "host-b:7450", ID: "g-host-b"}, there}},
		"leased, and the standby is away": {func(w *world, _ *model.Policy) {
			w.at(55*time.Second, func() {
				w.hosts[hostB].cutOff = true
				signal(w, contract.SigHostSuspect, contract.HostSignalIn{Host: hostB})
			})
		}, model.ModeLeased, []model.Grantor{{Host: hostB, Address: "host-b:7450", ID: "g-host-b"}, there}},
		"sole": {func(_ *world, p *model.Policy) { p.Isolation = model.IsolationKeep }, model.ModeSole, []model.Grantor{there}},
	} {
		t.Run(name, func(t *testing.T) {
			w, p := newWorld(t).connect(), policy()
			w.guards = 2
			c.change(w, &p)
			var before, after contract.ProtectState
			holds := 0
			w.at(60*time.Second, func() {
				before, holds = w.state(), w.count("hold")
				w.moved = &there
				signal(w, contract.SigGrantorMoved, contract.GrantorMoved{Grantor: there})
			})
			w.at(2*time.Minute, func() { after = w.state() })
			w.protect(protectIn(p), 2*time.Minute+time.Second)
			require.Equal(t, c.mode, before.Lease.Mode)
			require.Equal(t, c.mode, after.Lease.Mode)
			require.Equal(t, c.want, after.Lease.Grantors)
			require.Equal(t, there, *after.Grantor)
			require.EqualValues(t, 1, after.Generation)
			require.Equal(t, holds+1, w.count("hold"), "told once")
		})
	}
}

func TestWhatAnswersForNoLeaseIsSaid(t *testing.T) {
	for why, change := range map[string]func(*world, *model.Policy){
		"the policy wants":            func(w *world, p *model.Policy) { w.guards, p.GuardLevel = 1, 2 },
		"keeps an isolated VM":        func(w *world, p *model.Policy) { p.Isolation = model.IsolationKeep },
		"would be lost together with": func(w *world, p *model.Policy) { w.hosts[hostB].id = "control" },
	} {
		t.Run(why, func(t *testing.T) {
			w, p := newWorld(t).connect(), policy()
			w.guards = 2
			change(w, &p)
			var st contract.ProtectState
			w.at(59*time.Second, func() { st = w.state() })
			w.protect(protectIn(p), time.Minute)
			require.Equal(t, model.ModeSole, st.Lease.Mode)
			require.Contains(t, st.Lease.Why, why)
		})
	}
}

// A host is cut off from everybody and its fence device is dead with it: no person is needed.
func TestASilentHostWithoutAFenceDeviceIsOutlasted(t *testing.T) {
	w := newWorld(t).connect()
	w.guards, w.fence = 2, false
	w.at(61*time.Second, w.cutHost)
	var st contract.ProtectState
	w.at(3*time.Minute, func() { st = w.state() })
	w.protect(protectIn(policy()), 3*time.Minute+time.Second)
	require.Equal(t, hostB, st.Primary)
	require.Equal(t, contract.OutcomeDone, st.Failover.Outcome)
	require.Equal(t, model.EvidenceLeaseExpired, st.Failover.Result.Evidence.Kind)
	require.True(t, w.hosts[hostA].frozen, "the old copy stands still")
	require.True(t, w.hosts[hostB].writes())
	rec := w.record()
	require.Equal(t, model.ModeSole, rec.Mode, "the probation is committed; there is no standby to be leased to")
	require.Equal(t, hostB, rec.PermitHost)
	require.NotContains(t, alertNames(st), contract.AlertFenceUnconfirmed)
}

func TestAHostThatIsBoundByNothingWaitsForAPerson(t *testing.T) {
	w, p := newWorld(t).connect(), policy()
	w.guards, w.fence, p.Isolation = 2, false, model.IsolationKeep
	w.at(61*time.Second, w.cutHost)
	var st contract.ProtectState
	w.at(3*time.Minute, func() { st = w.state() })
	w.protect(protectIn(p), 3*time.Minute+time.Second)
	require.Equal(t, hostA, st.Primary)
	require.Contains(t, alertNames(st), contract.AlertFenceUnconfirmed)
	require.Zero(t, w.count("await-lease"))
	require.True(t, w.hosts[hostA].writes())
}

// A person may be wrong, so a lease that can be waited for is waited for all the same.
func TestAPersonsWordWaitsForTheLeaseUnlessForced(t *testing.T) {
	for name, c := range map[string]struct {
		force bool
		want  model.EvidenceKind
	}{
		"waited for": {false, model.EvidenceLeaseExpired},
		"forced":     {true, model.EvidencePerson},
	} {
		t.Run(name, func(t *testing.T) {
			w := takeover(t)
			w.guards, w.fence = 2, false
			_, err := w.records.SetMode(context.Background(), theVM.UUID, 1, hostA, model.ModeLeased, w.terms())
			require.NoError(t, err)
			in := failoverIn()
			w.hosts[hostA].off, w.hosts[hostA].running, in.FromSilent, in.Force = true, false, true, c.force
			in.Confirmed = &model.Evidence{Kind: model.EvidencePerson, By: "ada", At: w.now()}
			if c.force {
				w.hooks["await-lease"] = func(ctx context.Context) { <-ctx.Done() } // it takes its time
			}
			out, err := w.run(in)
			require.NoError(t, err)
			require.Equal(t, c.want, out.Evidence.Kind)
		})
	}
}

// The target took the permit and died: nobody knows whether it started the VM. Its probation is outlasted before the VM goes
// back, and the number is burnt [C13].
func TestATargetThatDiesOnProbationIsOutlastedBeforeTheVMGoesBack(t *testing.T) {
	w, in := takeover(t), failoverIn()
	w.guards = 2
	w.hooks["start"] = func(context.Context) {
		w.hosts[hostB].bound, w.hosts[hostB].cutOff = true, true
	}
	out, err := w.run(in)
	require.Error(t, err)
	require.Equal(t, contract.OutcomeRolledBack, out.Outcome, out.UndoFailed)
	require.Equal(t, hostA, out.HandedBackTo)
	require.EqualValues(t, 3, out.HandedBackGeneration)
	require.Equal(t, 1, w.count("await-lease"))
	rec := w.record()
	require.Equal(t, hostA, rec.PermitHost)
	require.Equal(t, model.EvidenceLeaseExpired, rec.Evidence.Kind)
}

func TestLosingOnlyTheStandbyChangesNothingForTheVM(t *testing.T) {
	w := newWorld(t).connect()
	w.guards = 2
	var st contract.ProtectState
	w.at(61*time.Second, func() {
		w.hosts[hostB].cutOff = true
		signal(w, contract.SigHostSuspect, contract.HostSignalIn{Host: hostB, At: w.now()})
	})
	w.at(5*time.Minute, func() { st = w.state() })
	w.protect(protectIn(policy()), 5*time.Minute+time.Second)
	require.Equal(t, hostA, st.Primary)
	require.True(t, w.hosts[hostA].writes())
	require.Equal(t, model.ModeLeased, w.record().Mode, "a later failover needs no person")
	require.EqualValues(t, 1, st.Generation)
}
