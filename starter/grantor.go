package starter

import (
	"context"
	"fmt"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// TellGrantor tells every protection where the control plane grants leases from now on, and counts them.
func (c *Client) TellGrantor(ctx context.Context, g model.Grantor) (told int, err error) {
	runs, err := c.running(ctx, contract.ProtectVMName)
	if err != nil {
		return 0, err
	}
	for _, r := range runs {
		id := r.GetExecution().GetWorkflowId()
		err := SignalTo(ctx, c, contract.SigGrantorMoved, id, contract.GrantorMoved{Grantor: g})
		if err != nil && model.KindOf(err) != model.NotFound { // one that ended meanwhile needs no word
			return told, fmt.Errorf("telling %s: %w", id, err)
		}
		told++
	}
	return told, nil
}
