package workflows

import (
	"github.com/stretchr/testify/mock"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// serveMoves is what switchovers, seeding and test failovers ask of hosts.
func (w *world) serveMoves() {
	serve(w, contract.PauseGuest, func(h *fakeHost, in contract.PauseGuestIn) (contract.PauseGuestOut, error) {
		if err := h.admit(in.Fence); err != nil {
			return contract.PauseGuestOut{}, err
		}
		if !h.running {
			return contract.PauseGuestOut{}, refusal(model.NotRunning)
		}
		h.paused = true
		return contract.PauseGuestOut{PausedAt: w.now()}, nil
	})
	serve(w, contract.UnpauseGuest, func(h *fakeHost, in contract.UnpauseGuestIn) (contract.None, error) {
		if err := h.admit(in.Fence); err != nil {
			return contract.None{}, err
		}
		h.paused = false
		return contract.None{}, nil
	})
	serve(w, contract.Seed, func(h *fakeHost, in contract.SeedIn) (contract.SeedOut, error) {
		if err := h.admit(in.Fence); err != nil || !h.left {
			return contract.SeedOut{Skipped: "nothing was left"}, err
		}
		return contract.SeedOut{Seeded: true, Point: in.Point, Bytes: 1 << 30, Rescue: []string{"/images/old.qcow2"}}, nil
	})
	serve(w, contract.TestBoot, func(h *fakeHost, in contract.TestBootIn) (contract.TestBootOut, error) {
		if h.test != 0 && h.test != in.Number {
			return contract.TestBootOut{}, refusal(model.Conflict)
		}
		h.test = in.Number
		return contract.TestBootOut{At: w.now()}, nil
	})
	serve(w, contract.TestProbe, func(h *fakeHost, in contract.TestBootIn) (contract.TestBootOut, error) {
		if h.test != in.Number {
			return contract.TestBootOut{}, refusal(model.NotRunning)
		}
		return contract.TestBootOut{At: w.now().Add(w.slowBoot), Answered: "agent"}, nil
	})
	serve(w, contract.TestClean, func(h *fakeHost, in contract.TestBootIn) (contract.None, error) {
		if h.test == in.Number {
			h.test = 0
		}
		return contract.None{}, nil
	})
}

// connectTests lets a test failover's signal reach the protection.
func (w *world) connectTests() *world {
	w.env.OnSignalExternalWorkflow(mock.Anything, contract.ProtectID(theVM.UUID), mock.Anything, contract.SigTestFinished.Name, mock.Anything).Return(
		func(_, _, _, name string, arg any) error {
			w.env.SignalWorkflow(name, arg)
			return nil
		}).Maybe()
	return w
}
