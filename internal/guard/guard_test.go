package guard

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"understudy/internal/model"
)

func TestALeasedVMStandsBeforeItsDeadlineAndGoesOnUnderALaterOne(t *testing.T) {
	p, vm := stand(t, func(o *Options) { o.Early = time.Second }), aVM()
	q := start(t, vm)
	deadline := now().Add(2 * time.Second)
	require.NoError(t, p.arm(vm, 3, model.ModeLeased, 2*time.Second))
	q.stays("it runs under its lease", q.runs)
	q.soon("frozen", q.frozen)
	kindOf(t, model.Refused, p.mayStart(vm))
	q.stays("nobody thaws it", q.frozen)

	require.NoError(t, p.arm(vm, 3, model.ModeLeased, 10*time.Second))
	q.soon("thawed", q.runs)
	p.stop()
	freeze := p.noted("freeze", q.pid())
	require.NotNil(t, freeze)
	require.True(t, *freeze.Proved)
	require.Less(t, freeze.BootTime, deadline, "proved before the deadline itself")
	thaw := p.noted("thaw", q.pid())
	require.NotNil(t, thaw)
	require.Greater(t, thaw.BootTime, freeze.BootTime)
}

func TestADeadlineMovesOnlyForwardAndALowerGenerationIsRefused(t *testing.T) {
	p, vm := stand(t), aVM()
	q := start(t, vm)
	require.NoError(t, p.arm(vm, 5, model.ModeLeased, 10*time.Second))
	require.NoError(t, p.arm(vm, 5, model.ModeLeased, 10*time.Millisecond), "a late message")
	q.stays("the later deadline holds", q.runs)
	kindOf(t, model.StaleGeneration, p.arm(vm, 4, model.ModeLeased, 10*time.Second))
	kindOf(t, model.Conflict, p.arm(vm, 5, model.ModeSole, 10*time.Second))
	kindOf(t, model.InvalidArgument, p.arm(vm, 6, model.ModeLeased, time.Hour))
	require.NoError(t, p.arm(vm, 6, model.ModeSole, 10*time.Second), "another generation may be sole again")
}

func TestASoleCopyHasNoDeadlineButItsGateHas(t *testing.T) {
	p, vm := stand(t), aVM()
	q := start(t, vm)
	require.NoError(t, p.arm(vm, 1, model.ModeSole, time.Millisecond))
	kindOf(t, model.Refused, p.mayStart(vm))
	q.stays("it goes on", q.runs)
	p.stop()
	p.begin()
	q.stays("also over a restart of the guard", q.runs)

	// QEMU ends, and somebody starts another past the gate.
	require.NoError(t, q.cmd.Process.Kill())
	q.soon("gone", q.dead)
	raw := start(t, vm)
	raw.soon("a raw start is frozen", raw.frozen)
	require.NoError(t, p.arm(vm, 1, model.ModeSole, 10*time.Second))
	raw.soon("a grant lets it go on", raw.runs)
}

func TestAGuardThatIsRestartedKeepsItsDeadlinesAndWhatItFroze(t *testing.T) {
	p, vm := stand(t), aVM()
	q := start(t, vm)
	require.NoError(t, p.arm(vm, 2, model.ModeLeased, 900*time.Millisecond))
	p.stop()
	p.begin()
	q.stays("it runs", q.runs)
	q.soon("frozen by the second guard", q.frozen)
	p.stop()
	p.begin()
	q.stays("frozen still", q.frozen)
	require.NoError(t, p.arm(vm, 2, model.ModeLeased, 10*time.Second))
	q.soon("thawed by the third", q.runs)
}

func TestAfterABootNothingProtectedRunsUntilItIsArmed(t *testing.T) {
	p, vm, other := stand(t), aVM(), aVM()
	require.NoError(t, p.arm(vm, 2, model.ModeSole, 10*time.Second))
	require.NoError(t, p.mayStart(vm))
	p.boot()
	kindOf(t, model.Refused, p.mayStart(vm))
	require.NoError(t, p.mayStart(other), "others are none of its business")
	q, free := start(t, vm), start(t, other)
	q.soon("frozen", q.frozen)
	require.True(t, free.runs())
	require.NoError(t, p.arm(vm, 2, model.ModeSole, 10*time.Second))
	q.soon("thawed", q.runs)
}

func TestADeadlineOfAnotherBootIsVoid(t *testing.T) {
	p, vm := stand(t), aVM()
	kindOf(t, model.StaleGeneration, p.c.Arm(context.Background(), model.GuardArm{
		UUID: vm, Generation: 1, BootID: "another", Deadline: now().Add(time.Second), Mode: model.ModeLeased, Action: model.IsolationFreeze,
	}))
	list, err := p.c.List(context.Background())
	require.NoError(t, err)
	require.Empty(t, list, "what was refused protects nothing")
}

func TestADemotedCopyIsKilledAndNeverComesBack(t *testing.T) {
	p, vm := stand(t), aVM()
	q := start(t, vm)
	require.NoError(t, p.arm(vm, 7, model.ModeLeased, 400*time.Millisecond))
	q.soon("frozen", q.frozen)
	require.NoError(t, p.c.Stop(context.Background(), vm, 8))
	require.True(t, gonePID(q.pid()), "gone when the call returns")
	kindOf(t, model.StaleGeneration, p.arm(vm, 7, model.ModeLeased, 10*time.Second))
	kindOf(t, model.Refused, p.mayStart(vm))
	raw := start(t, vm)
	raw.soon("a later start is frozen", raw.frozen)
	require.False(t, raw.dead(), "and not killed: nobody ordered that")
	require.NoError(t, p.c.Stop(context.Background(), vm, 8), "twice")
	raw.soon("the second order means this copy too", raw.dead)

	require.NoError(t, p.arm(vm, 9, model.ModeProbation, 10*time.Second))
	back := start(t, vm)
	require.NoError(t, p.c.Stop(context.Background(), vm, 9), "late: the newer one is here")
	back.stays("it runs", back.runs)
}

func gonePID(pid int) bool {
	_, alive := procfs{"/proc"}.identify(pid)
	return !alive
}

func TestTheActionKillEndsTheVM(t *testing.T) {
	p, vm := stand(t), aVM()
	q := start(t, vm)
	require.NoError(t, p.armAs(vm, 1, model.ModeLeased, 300*time.Millisecond, model.IsolationKill))
	q.soon("killed", q.dead)
	p.stop()
	require.Nil(t, p.noted("freeze", q.pid()))
}

func TestARefusedLeaseEndsAtOnce(t *testing.T) {
	p, vm := stand(t), aVM()
	q := start(t, vm)
	require.NoError(t, p.arm(vm, 4, model.ModeSole, 10*time.Second))
	kindOf(t, model.StaleGeneration, p.c.Freeze(context.Background(), vm, 3))
	require.NoError(t, p.c.Freeze(context.Background(), vm, 4))
	require.True(t, q.frozen(), "when the call returns, also in mode sole")
	kindOf(t, model.Refused, p.mayStart(vm))
	require.NoError(t, p.arm(vm, 4, model.ModeSole, -time.Second))
	q.stays("a deadline that has passed changes nothing", q.frozen)
	require.NoError(t, p.arm(vm, 4, model.ModeSole, 10*time.Second))
	q.soon("a new grant thaws it", q.runs)
}

func TestNobodyElseThaws(t *testing.T) {
	p, vm := stand(t), aVM()
	q := start(t, vm)
	require.NoError(t, p.arm(vm, 1, model.ModeLeased, time.Millisecond))
	q.soon("frozen", q.frozen)
	require.NoError(t, q.cmd.Process.Signal(unix.SIGCONT))
	q.soon("frozen again", q.frozen)
}

func TestWhatAPersonStoppedIsNotOursToThaw(t *testing.T) {
	p, vm := stand(t), aVM()
	q := start(t, vm)
	require.NoError(t, q.cmd.Process.Signal(unix.SIGSTOP))
	q.soon("stopped by hand", q.frozen)
	require.NoError(t, p.arm(vm, 1, model.ModeLeased, 10*time.Second))
	q.stays("still", q.frozen)
}

func TestOfTwoCopiesTheYoungerStands(t *testing.T) {
	p, vm := stand(t), aVM()
	first := start(t, vm)
	require.NoError(t, p.arm(vm, 1, model.ModeSole, 10*time.Second))
	second := start(t, vm)
	second.soon("frozen", second.frozen)
	require.True(t, first.runs())
	kindOf(t, model.Refused, p.mayStart(vm))
}

func TestAFrozenCopyIsNotForgotten(t *testing.T) {
	p, vm := stand(t), aVM()
	q := start(t, vm)
	require.NoError(t, p.arm(vm, 1, model.ModeLeased, time.Millisecond))
	q.soon("frozen", q.frozen)
	kindOf(t, model.Refused, p.c.Forget(context.Background(), vm))
	require.NoError(t, p.arm(vm, 1, model.ModeLeased, time.Minute))
	q.soon("thawed", q.runs)
	// It runs a moment before the record says so: a crash between the two must not leave a frozen copy that nobody knows of.
	q.soon("forgotten", func() bool { return p.c.Forget(context.Background(), vm) == nil })
	require.NoError(t, p.c.Forget(context.Background(), vm), "twice")
	list, err := Protected(p.dir)
	require.NoError(t, err)
	require.Empty(t, list)
	p.boot()
	q.stays("it is nobody's concern", q.runs)
}

func TestTwoGuardsDoNotServeOneHost(t *testing.T) {
	p := stand(t)
	_, err := New(Options{RunDir: p.run, StateDir: p.dir})
	kindOf(t, model.Conflict, err)
}

func TestAProcessWhoseNumberWasUsedAgainIsNotHit(t *testing.T) {
	q := start(t, aVM())
	is, ok := procfs{"/proc"}.identify(q.pid())
	require.True(t, ok)
	was := is
	was.Started -= model.BootTime(tick)
	_, err := procfs{"/proc"}.pidfd(was)
	require.ErrorIs(t, err, unix.ESRCH)
	was = is
	was.UUID = aVM()
	_, err = procfs{"/proc"}.pidfd(was)
	require.ErrorIs(t, err, unix.ESRCH)
	fd, err := procfs{"/proc"}.pidfd(is)
	require.NoError(t, err)
	require.NoError(t, unix.Close(fd))
}
