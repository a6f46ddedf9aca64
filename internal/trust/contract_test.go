package trust

import (
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/model"
)

func TestTheAuthorizerGoesByTheNamesOfTheContract(t *testing.T) {
	require.Equal(t, contract.ControlQueue, ControlQueue)
	require.Equal(t, contract.ProtectVMName, ProtectType)
	require.Equal(t, contract.RecoverName, RecoverType)
	require.Equal(t, contract.RecoverID, RecoverID)
	require.Equal(t, contract.HostWatchName, HostWatchType)
	require.Equal(t, contract.ProtectID("x"), ProtectPrefix+"x")
	require.Equal(t, contract.HostWatchID("x"), HostWatchPrefix+"x")
	require.Equal(t, []string{contract.HostQueue("kvm1"), contract.BulkQueue("kvm1")}, Queues("kvm1"))
	require.Equal(t, []string{contract.SigAgentStarted.Name, contract.SigUtilization.Name, contract.SigVMEvent.Name},
		[]string{SignalAgentStarted, SignalUtilization, SignalVMEvent})
	for _, name := range []string{"kvm1", "a.b-c", "-a", "A", "", "a/b", "a_b"} {
		require.Equal(t, model.ValidHostID(model.HostID(name)), Identity{Role: Host, Name: name}.Validate() == nil, name)
	}
}
