package workflows

import (
	"strings"

	"github.com/stretchr/testify/mock"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// serveProbes is what a failover asks of its target before the claim and after the start.
func (w *world) serveProbes() {
	serve(w, contract.Fit, func(*fakeHost, contract.FitIn) (contract.FitOut, error) {
		return contract.FitOut{Notes: []string{}}, nil
	})
	serve(w, contract.Probe, func(h *fakeHost, in contract.ProbeIn) (contract.ProbeOut, error) {
		switch {
		case h.admit(in.Fence) != nil:
			return contract.ProbeOut{}, refusal(model.StaleGeneration)
		case !h.running:
			return contract.ProbeOut{}, refusal(model.NotRunning)
		}
		return contract.ProbeOut{Answered: "agent"}, nil
	})
}

// deliver lets what a protection tells its failover arrive there.
func (w *world) deliver() {
	toFailover := mock.MatchedBy(func(id string) bool { return strings.HasPrefix(id, "failover/") })
	for _, name := range []string{contract.SigHostNews.Name, contract.SigFailoverOrder.Name} {
		w.env.OnSignalExternalWorkflow(mock.Anything, toFailover, mock.Anything, name, mock.Anything).Return(
			func(_, id, _, name string, arg any) error {
				w.env.RegisterDelayedCallback(func() { _ = w.env.SignalWorkflowByID(id, name, arg) }, 0) // it may be over
				return nil
			}).Maybe()
	}
}
