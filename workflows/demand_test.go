package workflows

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/model"
)

func TestALinkReservesWhatWasAdmittedAndThenWhatWasLearned(t *testing.T) {
	w := newWorld(t)
	in := protectIn(policy())
	in.State = &contract.ProtectState{
		Schema: schema, Phase: model.PhaseSeeding, Accepted: true, Primary: hostA, Standby: hostB, Policy: in.Spec.Policy, NextSeq: 1, Generation: 1, Claimed: 1,
		StandbyReady: true, Links: map[string]string{string(hostB): "host-b:7450"}, Admission: &contract.Admission{Verdict: "accept", Demand: 12345},
	}
	w.protect(in, 10*time.Minute)
	require.Greater(t, len(w.sent), 20)
	require.EqualValues(t, 12345, w.sent[1].Demand)
	require.Positive(t, w.sent[len(w.sent)-1].Demand)
	require.NotEqualValues(t, 12345, w.sent[len(w.sent)-1].Demand)
}
