package control

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"understudy/workers"
)

// A cluster of the operator's own needs nothing prepared: namespace, retention and search attributes are made, and made once.
func TestAServerPreparesATemporalThatKnowsNothingOfUs(t *testing.T) {
	cluster := raise(t, false)
	o := Options{
		TemporalAddress: cluster.o.address(), Namespace: "branch", DataDir: t.TempDir(), HealthListen: fmt.Sprintf("127.0.0.1:%d", anyPort(t)), LeaseListen: "off",
	}
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- Run(ctx, o, slog.New(slog.DiscardHandler)) }()
		s := &site{t: t, o: o}
		require.Eventually(t, func() bool { return s.healthy().Healthy }, time.Minute, 100*time.Millisecond)
		cancel()
		require.NoError(t, <-ended)
	}
	c, err := client.Dial(client.Options{HostPort: o.TemporalAddress, Namespace: o.Namespace, Logger: nil})
	require.NoError(t, err)
	defer c.Close()
	have, err := c.OperatorService().ListSearchAttributes(t.Context(), &operatorservice.ListSearchAttributesRequest{Namespace: o.Namespace})
	require.NoError(t, err)
	for name, typ := range workers.SearchAttributes() {
		require.Equal(t, typ, have.GetCustomAttributes()[name], name)
	}
	ns, err := c.WorkflowService().DescribeNamespace(t.Context(), &workflowservice.DescribeNamespaceRequest{Namespace: o.Namespace})
	require.NoError(t, err)
	require.Equal(t, workers.Retention, ns.GetConfig().GetWorkflowExecutionRetentionTtl().AsDuration())
}
