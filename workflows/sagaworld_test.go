package workflows

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// serveProbes is what a failover asks of its target before the claim and after the start.
func (w *world) serveProbes() {
	serve(w, contract.Fit, func(h *fakeHost, in contract.FitIn) (contract.FitOut, error) {
		if err := (model.Policy{EncryptionAtRest: in.EncryptionAtRest}).RefuseAtRest(in.VM.Name, h.id, h.atRest); err != nil {
			return contract.FitOut{}, contract.RefuseFailure(err)
		}
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

// sleep lets time pass inside an activity: real time, because the story's clock does not jump while one runs.
func (w *world) sleep(ctx context.Context, d time.Duration) {
	done := make(chan struct{})
	w.env.RegisterDelayedCallback(func() { close(done) }, d)
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// memory is a folder where fsync costs nothing, if there is one: hundreds of stories write records.
func memory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "understudy-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}
