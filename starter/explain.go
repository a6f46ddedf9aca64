package starter

import (
	"context"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// Explain returns the last decisions about a VM's cycles, with what they rested on.
func (c *Client) Explain(ctx context.Context, vm model.VMRef) (contract.ExplainOut, error) {
	return ask(ctx, c, contract.QueryExplain, contract.ProtectID(vm.UUID), aboutVM(vm))
}
