package activities

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

// verdicts is a link that answers as told.
type verdicts struct {
	Shares
	answer *contract.Admission
	asked  *contract.AdmissionIn
}

func (v *verdicts) Admit(_ context.Context, _ model.VMRef, _ model.Policy, in contract.AdmissionIn) (*contract.Admission, error) {
	v.asked = &in
	return v.answer, nil
}

func TestAVMThatTheLinkCannotCarryIsRefusedUnlessForced(t *testing.T) {
	f := hostEnv(t)
	v := &verdicts{}
	f.Shares = v
	f.source.facts = model.DomainFacts{VM: db1, Running: true}
	f.source.domain = hypervisor.Domain{VM: db1, Persistent: true}
	ask := func(in *contract.AdmissionIn) (contract.PreflightOut, error) {
		return run(t, f, contract.Preflight, contract.PreflightIn{VM: db1, Policy: model.DefaultPolicy(), Admission: in})
	}
	_, err := ask(nil)
	require.NoError(t, err)
	require.Nil(t, v.asked, "a VM that is protected already is not admitted again")

	out, err := ask(&contract.AdmissionIn{})
	require.NoError(t, err)
	require.Nil(t, out.Admission, "no budget")

	v.answer = &contract.Admission{Verdict: "refuse", Budget: 400_000, Before: 0.6, After: 1.3, Reason: "the link would be used 130 %", Others: []string{"gold1 (gold, RPO 10s) 60 %"}}
	_, err = ask(&contract.AdmissionIn{Demand: 7})
	require.Equal(t, "Refused", kind(t, err))
	require.ErrorContains(t, err, "the link would be used 130 %; there are gold1 (gold, RPO 10s) 60 %")
	require.ErrorContains(t, err, "(0.4 MB/s, needed 60 % before and 130 % after)")
	require.EqualValues(t, 7, v.asked.Demand)

	out, err = ask(&contract.AdmissionIn{Force: true})
	require.NoError(t, err)
	require.True(t, out.Admission.Forced)
	require.Len(t, out.Warnings, 1)
	require.Contains(t, out.Warnings[0], "130 %")

	v.answer = &contract.Admission{Verdict: "warn", Reason: "bronze gives way"}
	out, err = ask(&contract.AdmissionIn{})
	require.NoError(t, err)
	require.False(t, out.Admission.Forced)
	require.Len(t, out.Warnings, 1)
}
