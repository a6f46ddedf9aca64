package activities

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

const tpm = "the state of the virtual TPM is not replicated"

func (s *fakeSource) Warnings(context.Context, string) ([]string, error) {
	if s.facts.State == "with a TPM" {
		return []string{tpm}, nil
	}
	return nil, nil
}

func TestPreflightTellsWhatIsInNoPoint(t *testing.T) {
	f := hostEnv(t)
	f.source.facts = model.DomainFacts{VM: db1, Running: true, State: "with a TPM"}
	f.source.domain = hypervisor.Domain{VM: db1, Persistent: true}
	out, err := run(t, f, contract.Preflight, contract.PreflightIn{VM: db1, Policy: model.DefaultPolicy()})
	require.NoError(t, err)
	require.Equal(t, []string{tpm}, out.Warnings)
}
