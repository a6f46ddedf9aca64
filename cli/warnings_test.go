package cli

import (
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
)

const tpm = "the state of the virtual TPM is not replicated"

func TestProtectSaysWhatIsInNoPoint(t *testing.T) {
	d := sit(t)
	found(d)
	d.plane.ensure = func(contract.ProtectSpec) (contract.DescribeOut, error) {
		s := seeding()
		s.State.Warnings = []string{tpm}
		return s, nil
	}
	require.Equal(t, 0, d.run("protect", "--standby", "host-b", "db1"))
	require.Contains(t, d.stderr.String(), "warning: "+tpm+"\n")
	require.NotContains(t, d.stdout.String(), tpm)
	require.Equal(t, 0, d.run("protect", "--standby", "host-b", "--output", "json", "db1"))
	require.Equal(t, []any{tpm}, d.answer(t)["warnings"])
}

func TestStatusKeepsTheWarnings(t *testing.T) {
	d := sit(t)
	d.plane.find = func(string) (contract.DescribeOut, error) {
		s := protected()
		s.State.Warnings = []string{tpm}
		return s, nil
	}
	require.Equal(t, 0, d.run("status", "db1"))
	require.Contains(t, d.stdout.String(), "warning: "+tpm)
	require.Equal(t, 0, d.run("status", "--output", "json", "db1"))
	require.Equal(t, []any{tpm}, d.answer(t)["protections"].([]any)[0].(map[string]any)["warnings"])
}
