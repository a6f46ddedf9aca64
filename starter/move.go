package starter

import (
	"context"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// RequestSwitchover makes the points that are needed first and returns when the takeover runs; it does not wait for its end.
func (c *Client) RequestSwitchover(ctx context.Context, vm model.VMRef, in contract.SwitchoverRequestIn) (contract.FailoverRequestOut, error) {
	return tell(ctx, c, contract.UpdSwitchover, contract.ProtectID(vm.UUID), in, aboutVM(vm))
}

// RequestTestFailover starts a test failover; its result is in the protection's state.
func (c *Client) RequestTestFailover(ctx context.Context, vm model.VMRef, in contract.TestRequestIn) (contract.TestRequestOut, error) {
	return tell(ctx, c, contract.UpdTestFailover, contract.ProtectID(vm.UUID), in, aboutVM(vm))
}
