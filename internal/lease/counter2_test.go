package lease

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/model"
)

func TestC13ASilentTargetIsNotHandedBackBlindly(t *testing.T) {
	told(t, func(t *testing.T, broken bool) *world {
		w := failedOver(t)
		w.isolate("host-b")
		if broken {
			w.claim(3, 2, "host-a")
			w.forgeRecord(func(r *model.Record) { r.PermitHost = "host-a" })
			w.mustPermit(3, "host-a", nil)
			w.mustStart(3, "host-a")
			return w
		}
		w.claim(3, 2, "host-a")
		require.Equal(t, model.FenceUnconfirmed, model.KindOf(w.permit(3, "host-a", nil)))
		w.seal(3, "host-a")
		w.run(w.terms.Wait())
		require.True(t, w.hosts["host-a"].waited(3, attempt(3), w.terms.Wait()))
		w.mustPermit(3, "host-a", expired(3))
		w.mustStart(3, "host-a")
		return w
	})
}

func TestC14TheRecordGoesSoleBeforeTheHolder(t *testing.T) {
	told(t, func(t *testing.T, broken bool) *world {
		w := failedOver(t)
		b := w.hosts["host-b"]
		if !broken {
			_, err := w.records.SetMode(w.ctx, vm.UUID, 2, "host-b", model.ModeSole, w.terms)
			require.NoError(t, err)
		}
		require.NoError(t, b.holder.SetMode(w.ctx, w.hold("host-b", 2, model.ModeSole)))
		w.isolate("host-b")
		if broken {
			w.takeBackByLease(3)
			return w
		}
		w.claim(3, 2, "host-a")
		w.seal(3, "host-a")
		w.run(w.terms.Wait())
		require.Equal(t, model.FenceUnconfirmed, model.KindOf(w.permit(3, "host-a", expired(3))))
		require.Equal(t, 1, w.running(), "a sole copy goes on without any contact")
		return w
	})
}

func TestC14TheHolderGoesLeasedBeforeTheRecord(t *testing.T) {
	told(t, func(t *testing.T, broken bool) *world {
		w := sole(t)
		w.isolate("host-a")
		if broken { // counted on before the holder acknowledged it
			_, err := w.records.SetMode(w.ctx, vm.UUID, 1, "host-a", model.ModeLeased, w.terms)
			require.NoError(t, err)
		} else {
			require.Error(t, w.bind("host-a", 1, "host-b"), "no live grant in hand")
		}
		w.claim(2, 1, "host-b")
		w.seal(2, "host-b")
		w.run(w.terms.Wait())
		err := w.permit(2, "host-b", expired(2))
		if broken {
			require.NoError(t, err)
			w.mustStart(2, "host-b")
		} else {
			require.Equal(t, model.FenceUnconfirmed, model.KindOf(err))
		}
		return w
	})
}

func TestC15AWatchdogStandsBelowTheGuard(t *testing.T) {
	told(t, func(t *testing.T, broken bool) *world {
		terms := model.DefaultTerms(2)
		if broken {
			terms = model.DefaultTerms(1)
		}
		w := leasedAt(t, terms, 500*time.Millisecond)
		a := w.hosts["host-a"]
		a.hung, a.guard.alive = true, false
		w.claim(2, 1, "host-b")
		w.seal(2, "host-b")
		w.run(terms.Wait())
		w.mustPermit(2, "host-b", expired(2))
		w.mustStart(2, "host-b")
		return w
	})
}

func TestC16ALateCommitDoesNotUndoALease(t *testing.T) {
	told(t, func(t *testing.T, broken bool) *world {
		w := leased(t)
		a := w.hosts["host-a"]
		commit := w.hold("host-a", 1, model.ModeSole)
		_, err := a.holder.Told(w.ctx, commit)
		require.Equal(t, model.Conflict, model.KindOf(err))
		require.NoError(t, a.holder.Adopt(w.ctx, commit), "an adoption that comes again changes no mode")
		e, err := a.state.Get(vm.UUID)
		require.NoError(t, err)
		require.Equal(t, model.ModeLeased, e.Mode)
		_, err = w.records.SetMode(w.ctx, vm.UUID, 1, "host-a", model.ModeSole, w.terms)
		require.Equal(t, model.Conflict, model.KindOf(err))
		if broken {
			a.forge(func(e *Entry) { e.Mode = model.ModeSole })
		}
		w.isolate("host-a")
		w.claim(2, 1, "host-b")
		w.seal(2, "host-b")
		w.run(w.terms.Wait())
		w.mustPermit(2, "host-b", expired(2))
		w.mustStart(2, "host-b")
		return w
	})
}

func TestC17TheRecordItselfGrants(t *testing.T) {
	told(t, func(t *testing.T, broken bool) *world {
		w := leased(t)
		a := w.hosts["host-a"]
		if broken {
			w.stale = w.cached()
		}
		w.claim(2, 1, "host-b")
		w.seal(2, "host-b")
		a.powerOff()
		a.boot()
		_ = a.inPlace()
		w.stale = nil
		w.mustPermit(2, "host-b", evidence(2))
		w.mustStart(2, "host-b")
		return w
	})
}

// cached is a grantor of the same id that sees the record as it was.
func (w *world) cached() *Records {
	rec, err := w.records.Read(w.ctx, vm.UUID)
	require.NoError(w.t, err)
	r, err := OpenRecords(filepath.Join(w.dir, "cache"), fixedNow)
	require.NoError(w.t, err)
	r.id = w.records.ID()
	_, err = r.write(rec)
	require.NoError(w.t, err)
	return r
}

func TestC18TheClaimIsDurable(t *testing.T) {
	told(t, func(t *testing.T, broken bool) *world {
		w := leased(t)
		a := w.hosts["host-a"]
		unclaimed := w.files(control)
		w.claim(2, 1, "host-b")
		w.seal(2, "host-b")
		a.powerOff()
		w.mustPermit(2, "host-b", evidence(2))
		w.mustStart(2, "host-b")
		if broken {
			unclaimed()
		}
		w.openRecords() // the server died and is back
		a.boot()
		require.Equal(t, broken, a.inPlace() == nil)
		return w
	})
}

func TestC19EvidenceCountsForItsAttemptOnly(t *testing.T) {
	told(t, func(t *testing.T, broken bool) *world {
		w := leased(t)
		off, err := w.hosts["host-a"].surrender(2, attempt(2))
		require.NoError(t, err)
		w.claim(2, 1, "host-b")
		w.claim(3, 1, "host-a") // rolled back
		w.mustPermit(3, "host-a", nil)
		w.mustStart(3, "host-a")
		w.claim(4, 3, "host-b")
		w.seal(4, "host-b")
		if broken {
			off.Generation = 4
		}
		err = w.permit(4, "host-b", off)
		if !broken {
			require.Equal(t, model.FenceUnconfirmed, model.KindOf(err))
			return w
		}
		require.NoError(t, err)
		w.mustStart(4, "host-b")
		return w
	})
}

func TestC20AlsoASoleHolderStartsOnlyUnderAFreshGrant(t *testing.T) {
	told(t, func(t *testing.T, broken bool) *world {
		w := sole(t)
		a := w.hosts["host-a"]
		w.claim(2, 1, "host-b")
		w.seal(2, "host-b")
		a.powerOff()
		w.mustPermit(2, "host-b", evidence(2))
		w.mustStart(2, "host-b")
		a.boot()
		require.Equal(t, model.StaleGeneration, model.KindOf(a.inPlace()), "asked, it is refused")
		w.isolate("host-a")
		require.Equal(t, model.Unreachable, model.KindOf(a.inPlace()), "not asked, it does not start")
		require.Error(t, a.holder.MayRun(vm.UUID, 1))
		a.ungated = broken // it reads "sole, no lease needed"
		require.Equal(t, broken, a.start())
		return w
	})
}

func TestC21AWaitBelowTheInequalityIsTooShort(t *testing.T) {
	told(t, func(t *testing.T, broken bool) *world {
		w := leasedAt(t, model.DefaultTerms(2), 50*time.Millisecond)
		a, b := w.hosts["host-a"], w.hosts["host-b"]
		a.rate, b.rate = 1/(1+model.LeaseRho), 1+model.LeaseRho // as wrong as they may be
		for before := a.guard.rec.Deadline; a.guard.rec.Deadline == before; {
			w.tick() // the seals come right after a grant
		}
		wait := w.terms.Wait()
		if broken {
			wait = w.terms.Least() - time.Second
		}
		w.isolate("host-a")
		w.claim(2, 1, "host-b")
		w.seal(2, "host-b")
		for !b.waited(2, attempt(2), wait) {
			w.tick()
			if a.clock.Now() >= a.guard.rec.Deadline.Add(-100*time.Millisecond) && a.boots == 0 {
				a.guard.alive, a.hung = false, true // just before the deadline
			}
		}
		w.mustPermit(2, "host-b", expired(2))
		w.mustStart(2, "host-b")
		return w
	})
}

func TestC22OnProbationOnlyTheControlPlaneGrants(t *testing.T) {
	told(t, func(t *testing.T, broken bool) *world {
		w := newWorld(t, model.DefaultTerms(2), 500*time.Millisecond, "host-a", "host-b", "host-c")
		w.begin()
		w.claim(2, 1, "host-b")
		w.seal(2, "host-b")
		off, err := w.hosts["host-a"].surrender(2, attempt(2))
		require.NoError(t, err)
		w.mustPermit(2, "host-b", off)
		b := w.hosts["host-b"]
		require.NoError(t, w.hosts["host-c"].state.Admit(vm, 2))
		require.NoError(t, b.takeAndStart(w.hold("host-b", 2, model.ModeProbation, "host-c")))
		if broken {
			b.forge(func(e *Entry) { e.Mode = model.ModeLeased })
		}
		w.run(w.terms.Renew)
		w.part("host-b", control) // host-c would go on granting
		w.takeBackByLease(3)
		return w
	})
}

func TestC23TheModeAlwaysComesFromTheMessage(t *testing.T) {
	told(t, func(t *testing.T, broken bool) *world {
		w := sole(t)
		a := w.hosts["host-a"]
		w.claim(2, 1, "host-b")
		w.seal(2, "host-b")
		w.claim(3, 1, "host-a")
		w.mustPermit(3, "host-a", nil) // on probation, says the record
		require.NoError(t, a.holder.Take(w.ctx, w.hold("host-a", 3, model.ModeProbation)))
		e, err := a.state.Get(vm.UUID)
		require.NoError(t, err)
		require.Equal(t, model.ModeProbation, e.Mode)
		if broken {
			a.forge(func(e *Entry) { e.Mode = model.ModeSole }) // what it was before
		}
		w.isolate("host-a")
		w.claim(4, 3, "host-b")
		w.seal(4, "host-b")
		w.run(w.terms.Wait())
		w.mustPermit(4, "host-b", expired(4))
		w.mustStart(4, "host-b")
		return w
	})
}

func TestL1AHandBackOverridesACandidacy(t *testing.T) {
	w := leased(t)
	a, b := w.hosts["host-a"], w.hosts["host-b"]
	w.claim(2, 1, "host-b")
	w.seal(2, "host-b")
	a.powerOff()
	w.mustPermit(2, "host-b", evidence(2)) // and host-b never took it
	w.claim(3, 2, "host-a")
	w.claim(4, 2, "host-b")
	w.mustPermit(4, "host-b", nil)
	w.mustStart(4, "host-b")
	e, err := b.state.Get(vm.UUID)
	require.NoError(t, err)
	require.True(t, e.Holds())
	require.Equal(t, model.ModeProbation, e.Mode)
	require.Equal(t, 1, w.running())
	require.Error(t, b.takeAndStart(w.hold("host-b", 2, model.ModeProbation)), "the old message comes at last")
}

func TestL2ASoleVMOfADeadHostStaysDownUntilSomebodySpeaks(t *testing.T) {
	w := sole(t)
	w.hosts["host-a"].powerOff()
	w.claim(2, 1, "host-b")
	w.seal(2, "host-b")
	w.run(2 * w.terms.Wait())
	for _, nothing := range []*model.Evidence{nil, expired(2), {Kind: model.EvidenceSameHost, Generation: 2}} {
		require.Equal(t, model.FenceUnconfirmed, model.KindOf(w.permit(2, "host-b", nothing)))
	}
	w.mustPermit(2, "host-b", &model.Evidence{Kind: model.EvidencePerson, Generation: 2})
	w.mustStart(2, "host-b")
	require.Equal(t, 1, w.running())
}
