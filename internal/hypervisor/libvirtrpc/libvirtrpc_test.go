package libvirtrpc_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/hypervisor/hvtest"
	"understudy/internal/hypervisor/libvirtrpc"
	"understudy/internal/model"
)

func TestLibvirtIsAHypervisor(t *testing.T) {
	l := hvtest.StartLibvirtd(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := libvirtrpc.Dial(ctx, l.Socket, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	hvtest.Run(t, hvtest.Setup{
		HV: c, Dir: l.Dir,
		CreateImage: l.CreateImage,
		Write: func(t testing.TB, vm model.VMRef, target string, pattern byte, off, length int64) {
			l.Write(t, vm.Name, target, pattern, off, length)
		},
		KillQEMU:      func(t testing.TB, vm model.VMRef) { l.KillQEMU(t, vm.Name) },
		RestartDaemon: l.Restart,
		StopDaemon:    l.Stop,
	})
}
