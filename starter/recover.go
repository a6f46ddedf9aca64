package starter

import (
	"context"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"understudy/internal/contract"
)

const recoverLimit = 5 * time.Minute

// Recover begins protections again whose workflows were lost with Temporal's database. Two callers meet in one run.
func (c *Client) Recover(ctx context.Context) (contract.RecoverOut, error) {
	var out contract.RecoverOut
	about := subject{gone: "nobody recovers anything"}
	startCtx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	run, err := c.t.ExecuteWorkflow(startCtx, client.StartWorkflowOptions{
		ID: contract.RecoverID, TaskQueue: contract.ControlQueue, WorkflowExecutionTimeout: recoverLimit,
		WorkflowIDConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
		WorkflowIDReusePolicy:    enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		StaticSummary:            "begin protections again from their records",
	}, contract.RecoverName)
	if err != nil {
		return out, c.failure(ctx, err, about)
	}
	return out, c.failure(ctx, run.Get(ctx, &out), about)
}
