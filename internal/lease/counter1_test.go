package lease

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/model"
)

func TestC1ASealThatIsNotDurableIsForgottenInAPowerLoss(t *testing.T) {
	told(t, func(t *testing.T, broken bool) *world {
		w := leased(t)
		a, b := w.hosts["host-a"], w.hosts["host-b"]
		unsealed := w.files("host-b")
		w.claim(2, 1, "host-b")
		w.seal(2, "host-b")
		a.powerOff()
		b.powerOff()
		if broken {
			unsealed()
		}
		b.boot()
		w.part("host-a", control)
		a.boot()
		_ = a.inPlace()
		w.mustPermit(2, "host-b", evidence(2))
		w.mustStart(2, "host-b")
		return w
	})
}

func TestC2WithoutAGuardALeaseProvesNothing(t *testing.T) {
	w := newWorld(t, model.DefaultTerms(0), time.Second, "host-a", "host-b")
	w.begin()
	require.Equal(t, model.Refused, model.KindOf(w.bind("host-a", 1, "host-b")))
	_, err := w.records.SetMode(w.ctx, vm.UUID, 1, "host-a", model.ModeLeased, w.terms)
	require.Equal(t, model.InvalidArgument, model.KindOf(err))
	require.Zero(t, w.terms.Wait())
	w.claim(2, 1, "host-b")
	w.seal(2, "host-b")
	w.run(time.Hour)
	require.Equal(t, model.FenceUnconfirmed, model.KindOf(w.permit(2, "host-b", expired(2))))

	// Forged, it would have been two: nobody stops the copy of a hung agent.
	w.forgeRecord(func(r *model.Record) { r.Mode, r.Terms = model.ModeLeased, model.DefaultTerms(1) })
	w.hosts["host-a"].hung = true
	w.hosts["host-b"].guard.alive, w.hosts["host-b"].guard.level = true, 1
	w.mustPermit(2, "host-b", expired(2))
	w.mustStart(2, "host-b")
	require.Equal(t, 2, w.worst)
}

func TestC3TTLCountsFromSending(t *testing.T) {
	told(t, func(t *testing.T, broken bool) *world {
		w := leased(t)
		a := w.hosts["host-a"]
		e, err := a.state.Get(vm.UUID)
		require.NoError(t, err)
		c := w.grantors()[0]
		question := a.holder.compose(c, []Entry{e})
		late := w.records.Grant(question)
		require.True(t, late.Answers[0].Granted)
		w.isolate("host-a")
		w.claim(2, 1, "host-b")
		w.seal(2, "host-b")
		w.run(w.terms.Wait())
		require.True(t, w.hosts["host-b"].waited(2, attempt(2), w.terms.Wait()))
		w.mustPermit(2, "host-b", expired(2))
		w.mustStart(2, "host-b")
		if l := a.holder.lane(vm.UUID); broken {
			l.asked[late.Answers[0].Nonce] = question1(c.ID, a.clock.Now())
		}
		require.True(t, a.holder.receive(c, late.Answers[0]))
		a.holder.act(w.ctx, vm.UUID)
		require.False(t, a.holder.receive(c, late.Answers[0]), "an answer counts once")
		w.run(time.Second)
		return w
	})
}

func question1(grantor string, sent model.BootTime) question { return question{grantor, 1, sent} }

func TestC4TheSealComesBeforeTheEvidenceNotWithTheStart(t *testing.T) {
	told(t, func(t *testing.T, broken bool) *world {
		w := leased(t)
		a := w.hosts["host-a"]
		unsealed := w.files("host-b")
		w.claim(2, 1, "host-b")
		w.seal(2, "host-b")
		if broken {
			unsealed()
		}
		a.powerOff()
		w.part("host-a", control)
		a.boot()
		_ = a.inPlace()
		w.mustPermit(2, "host-b", evidence(2))
		w.mustStart(2, "host-b")
		return w
	})
}

func TestC5ARestartOfTheTargetBeginsTheWaitAgain(t *testing.T) {
	told(t, func(t *testing.T, broken bool) *world {
		w := leased(t)
		b, wait := w.hosts["host-b"], w.terms.Wait()
		w.isolate("host-a")
		w.claim(2, 1, "host-b")
		w.seal(2, "host-b")
		w.run(10 * time.Second)
		w.restart("host-b")
		if !broken {
			require.False(t, b.waited(2, attempt(2), wait))
			w.run(15 * time.Second)
			require.False(t, b.waited(2, attempt(2), wait), "25 s after the seal, but 15 s of this process")
			w.run(8 * time.Second)
			require.True(t, b.waited(2, attempt(2), wait))
		}
		w.mustPermit(2, "host-b", expired(2))
		w.mustStart(2, "host-b")
		w.run(time.Second)
		return w
	})
}

func TestC6EvidenceComesAfterBothSeals(t *testing.T) {
	told(t, func(t *testing.T, broken bool) *world {
		w := leased(t)
		a := w.hosts["host-a"]
		w.claim(2, 1, "host-b")
		if !broken {
			w.seal(2, "host-b")
		}
		a.powerOff() // confirmed: this is the evidence
		w.part("host-a", control)
		a.boot()
		_ = a.inPlace()
		if broken {
			w.seal(2, "host-b")
		}
		w.mustPermit(2, "host-b", evidence(2))
		w.mustStart(2, "host-b")
		return w
	})
}

func TestC7EveryStartPassesTheGate(t *testing.T) {
	told(t, func(t *testing.T, broken bool) *world {
		w := failedOver(t)
		a := w.hosts["host-a"]
		a.ungated = broken
		require.Equal(t, broken, a.start(), "autostart, or virsh start by hand")
		return w
	})
}

func TestC8TheClockGoesOnInSleep(t *testing.T) {
	told(t, func(t *testing.T, broken bool) *world {
		w := leased(t)
		a := w.hosts["host-a"]
		a.monotonic = broken
		w.run(w.terms.Renew)
		a.sleep()
		w.claim(2, 1, "host-b")
		w.seal(2, "host-b")
		w.run(w.terms.Wait())
		w.mustPermit(2, "host-b", expired(2))
		w.mustStart(2, "host-b")
		a.wake()
		w.run(time.Second)
		return w
	})
}

func TestC9TheCopyIsFrozenBeforeTheHostSleeps(t *testing.T) {
	told(t, func(t *testing.T, broken bool) *world {
		w := leased(t)
		a := w.hosts["host-a"]
		a.sleepless = broken
		a.sleep()
		w.claim(2, 1, "host-b")
		w.seal(2, "host-b")
		w.run(w.terms.Wait())
		w.mustPermit(2, "host-b", expired(2))
		w.mustStart(2, "host-b")
		a.wake()
		return w
	})
}

func TestC10ADomainThatIsOffIsNoEvidenceASurrenderIs(t *testing.T) {
	told(t, func(t *testing.T, broken bool) *world {
		w := leased(t)
		a := w.hosts["host-a"]
		a.qemu = nil // it crashed
		w.claim(2, 1, "host-b")
		w.seal(2, "host-b")
		ev := evidence(2) // somebody looked: it is off
		if !broken {
			var err error
			ev, err = a.surrender(2, attempt(2))
			require.NoError(t, err)
		}
		require.Equal(t, broken, a.inPlace() == nil, "its lease lives, so only a surrender keeps it from a start")
		w.mustPermit(2, "host-b", ev)
		w.mustStart(2, "host-b")
		return w
	})
}

func TestC11NoDeadlineOutlivesABoot(t *testing.T) {
	told(t, func(t *testing.T, broken bool) *world {
		w := leased(t)
		a := w.hosts["host-a"]
		before := a.guard.rec
		w.claim(2, 1, "host-b")
		w.seal(2, "host-b")
		a.powerOff()
		w.isolate("host-a")
		a.boot()
		require.Equal(t, model.Unreachable, model.KindOf(a.inPlace()))
		require.Error(t, a.holder.MayRun(vm.UUID, 1))
		require.Error(t, a.guard.Arm(w.ctx, before), "of another boot")
		if broken {
			a.guard.rec = before
		}
		require.Equal(t, broken, a.start())
		w.mustPermit(2, "host-b", evidence(2))
		w.mustStart(2, "host-b")
		return w
	})
}

func TestC12AGenerationIsNeverUsedAgain(t *testing.T) {
	told(t, func(t *testing.T, broken bool) *world {
		w := leased(t)
		a := w.hosts["host-a"]
		unclaimed := w.files(control)
		w.claim(2, 1, "host-b")
		a.powerOff()
		late := evidence(2) // the fence device answers much later
		a.boot()
		if broken {
			unclaimed() // rolled back to generation 1
			require.NoError(t, a.inPlace())
			w.claim(2, 1, "host-b")
			w.seal(2, "host-b")
			w.mustPermit(2, "host-b", late)
			w.mustStart(2, "host-b")
			return w
		}
		w.claim(3, 1, "host-a")
		w.mustPermit(3, "host-a", nil)
		w.mustStart(3, "host-a")
		_, err := w.records.Claim(w.ctx, vm.UUID, 2, 3, "host-b", attempt(2))
		require.Equal(t, model.Conflict, model.KindOf(err))
		w.claim(4, 3, "host-b")
		w.seal(4, "host-b")
		require.Equal(t, model.FenceUnconfirmed, model.KindOf(w.permit(4, "host-b", late)))
		return w
	})
}
