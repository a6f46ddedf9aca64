package cli

import (
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/model"
)

func TestEncryptionAtRestIsAskedForAndARefusalSaysWhatToDo(t *testing.T) {
	d := sit(t)
	now := protected()
	d.plane.find = func(string) (contract.DescribeOut, error) { return now, nil }
	var asked model.Policy
	d.plane.setPolicy = func(p model.Policy) (contract.DescribeOut, error) {
		asked = p
		return contract.DescribeOut{}, p.RefuseAtRest("db1", "host-b", model.AtRestPlain)
	}
	require.Equal(t, 12, d.run("set-policy", "--encryption-at-rest", "required", "db1"))
	require.Equal(t, model.EncryptionRequired, asked.EncryptionAtRest)
	require.Contains(t, d.stderr.String(), "the state folder of host-b is not encrypted, and the policy requires encryption at rest")
	require.Contains(t, d.stderr.String(), "understudy doctor --host host-b")

	now.State.Policy = asked
	require.Equal(t, 0, d.run("status", "--output", "json", "db1"), d.stderr.String())
	row := d.answer(t)["protections"].([]any)[0].(map[string]any)
	require.Equal(t, "required", row["policy"].(map[string]any)["encryption_at_rest"])

	require.Equal(t, 0, d.run("set-policy", "--encryption-at-rest", "optional", "db1"), d.stderr.String())
	require.Empty(t, asked.EncryptionAtRest)
	require.Equal(t, 64, d.run("set-policy", "--encryption-at-rest", "perhaps", "db1"))
}
