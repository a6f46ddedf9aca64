package restore_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

const attempt = "failover/x/2"

// running is a host on which the VM runs from files of its own.
func running(t *testing.T) *host {
	h := newHost(t)
	h.define()
	require.NoError(t, h.hv.Start(ctx, vm.UUID))
	return h
}

func TestACopyGivesUpOnlyWhileItIsPausedForThisSwitchover(t *testing.T) {
	h := running(t)
	require.Equal(t, model.Conflict, model.KindOf(h.restorer().SurrenderPaused(ctx, vm, attempt)), "it was never paused")
	require.True(t, h.domain().State.Active())

	at, err := h.restorer().Pause(ctx, vm, attempt, time.Minute)
	require.NoError(t, err)
	again, err := h.restorer().Pause(ctx, vm, attempt, time.Minute)
	require.NoError(t, err)
	require.Equal(t, at, again)
	require.Equal(t, model.Conflict, model.KindOf(h.restorer().SurrenderPaused(ctx, vm, "failover/x/3")), "paused for another one")
	require.NoError(t, h.hv.Resume(ctx, vm.UUID)) // by a person
	require.Equal(t, model.Conflict, model.KindOf(h.restorer().SurrenderPaused(ctx, vm, attempt)))
	require.Equal(t, hypervisor.Running, h.domain().State)

	_, err = h.restorer().Pause(ctx, vm, attempt, time.Minute)
	require.NoError(t, err)
	require.NoError(t, h.restorer().SurrenderPaused(ctx, vm, attempt))
	require.False(t, h.domain().State.Active())
	require.NoError(t, h.restorer().SurrenderPaused(ctx, vm, attempt), "asked again it is the same")
	started, err := h.restorer().TakeUp(ctx, vm)
	require.NoError(t, err)
	require.True(t, started, "the switchover came to nothing")
	require.Equal(t, hypervisor.Running, h.domain().State)
}

func TestACopyThatWroteWhileItWasToBePausedDoesNotGiveUp(t *testing.T) {
	h := running(t)
	_, err := h.restorer().Pause(ctx, vm, attempt, time.Minute)
	require.NoError(t, err)
	require.NoError(t, h.hv.Resume(ctx, vm.UUID))
	require.NoError(t, h.hv.Write(vm.UUID, "vda", make([]byte, 4096), 0))
	require.NoError(t, h.hv.Suspend(ctx, vm.UUID))
	err = h.restorer().SurrenderPaused(ctx, vm, attempt)
	require.Equal(t, model.Conflict, model.KindOf(err), "%v", err)
	require.ErrorContains(t, err, "wrote")
	require.Equal(t, hypervisor.Paused, h.domain().State)
	started, err := h.restorer().TakeUp(ctx, vm)
	require.NoError(t, err)
	require.False(t, started)
	require.Equal(t, hypervisor.Running, h.domain().State, "and goes on when it may")
}

// Whoever is lost, the pause ends: a new process of the agent finds the record of the one before.
func TestAPauseEndsByItselfAlsoInANewProcess(t *testing.T) {
	h := running(t)
	_, err := h.restorer().Pause(ctx, vm, attempt, time.Second)
	require.NoError(t, err)
	watching, end := context.WithCancel(ctx)
	defer end()
	go h.restorer().WatchPauses(watching)
	require.Equal(t, hypervisor.Paused, h.domain().State)
	require.Eventually(t, func() bool { return h.domain().State == hypervisor.Running }, 5*time.Second, 10*time.Millisecond)
	require.Equal(t, model.Conflict, model.KindOf(h.restorer().SurrenderPaused(ctx, vm, attempt)))
}

func TestAPauseThatFailsLeavesTheVMRunning(t *testing.T) {
	for _, op := range []string{"Suspend", "Stats"} {
		h := running(t)
		h.hv.SetFault(func(_ context.Context, got, _ string) error {
			if got == op {
				return model.Fail(model.Unreachable, nil, "libvirtd is busy")
			}
			return nil
		})
		_, err := h.restorer().Pause(ctx, vm, attempt, time.Minute)
		require.Error(t, err, op)
		require.Equal(t, hypervisor.Running, h.domain().State, op)
	}
	h := running(t)
	require.NoError(t, h.hv.Suspend(ctx, vm.UUID))
	_, err := h.restorer().Pause(ctx, vm, attempt, time.Minute)
	require.Equal(t, model.Conflict, model.KindOf(err), "somebody else's pause is theirs")
	require.NoError(t, h.restorer().Unpause(ctx, vm))
	require.Equal(t, hypervisor.Paused, h.domain().State)
}

func TestWhatAVMLeavesIsFoundByItsLastDefinition(t *testing.T) {
	h := running(t)
	disks, rescue, err := h.restorer().LeftBehind(vm)
	require.NoError(t, err)
	require.Empty(t, disks)
	require.Empty(t, rescue)
	_, err = h.restorer().Demote(ctx, vm)
	require.NoError(t, err)
	disks, rescue, err = h.restorer().LeftBehind(vm)
	require.NoError(t, err)
	require.Len(t, disks, 2)
	require.Equal(t, "vda", disks[0].Target)
	require.Equal(t, model.FormatQCOW2, disks[0].Format)
	require.Equal(t, []string{h.dir + "/vda.img", h.dir + "/vdb.img"}, rescue)
}
