package workflows

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"

	"understudy/internal/contract"
	"understudy/internal/model"
)

func TestTheChecksWarningsStayWithTheProtection(t *testing.T) {
	w := newWorld(t)
	w.env.OnActivity(contract.Preflight.Name, mock.Anything, mock.Anything).Return(func(ctx context.Context, in contract.PreflightIn) (contract.PreflightOut, error) {
		host := hostOf(activity.GetInfo(ctx).TaskQueue)
		return contract.PreflightOut{
			Facts: model.HostFacts{Host: host, LinkAddress: string(host) + ":7450"}, VM: in.VM, Disks: []model.Disk{{Target: "vda"}}, Running: true,
			Warnings: []string{"of " + string(host)},
		}, nil
	})
	w.protect(protectIn(policy()), 30*time.Second)
	require.Equal(t, []string{"of host-a", "of host-b"}, w.state().Warnings)
}
