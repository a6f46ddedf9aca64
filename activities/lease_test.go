package activities

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/testsuite"

	"understudy/internal/contract"
	"understudy/internal/lease"
	"understudy/internal/lease/leasetest"
	"understudy/internal/model"
)

// bound is host-b with a guard, whose one grantor is a real record of the control plane.
type bound struct {
	*hostFixture
	t       *testing.T
	clock   *leasetest.Clock
	records *lease.Records
	grantor model.Grantor
	holder  *lease.Holder

	mu      sync.Mutex
	story   []string
	armed   model.GuardArm
	away    bool          // the control plane does not answer
	hanging chan struct{} // a start waits for it
	slept   chan struct{} // and says so
}

func (b *bound) note(s string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.story = append(b.story, s)
}

func (b *bound) told() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := b.story
	b.story = nil
	return out
}

func (b *bound) Renew(_ context.Context, _ model.Grantor, in lease.RenewIn) (lease.RenewOut, error) {
	if b.away {
		return lease.RenewOut{}, model.Fail(model.Unreachable, nil, "it is cut off")
	}
	return b.records.Grant(in), nil
}

// boundGuard notes what it is told.
type boundGuard struct{ *bound }

func (g boundGuard) Arm(_ context.Context, a model.GuardArm) error {
	g.note("arm")
	g.armed = a
	return nil
}

func (g boundGuard) Freeze(context.Context, string, model.Generation) error {
	g.note("freeze")
	return nil
}
func (g boundGuard) Stop(context.Context, string, model.Generation) error {
	g.note("kill")
	return nil
}
func (g boundGuard) Forget(context.Context, string) error { g.note("forget"); return nil }
func (g boundGuard) State(context.Context) (model.GuardState, error) {
	return model.GuardState{Level: 2}, nil
}

type boundRestorer struct {
	Restorer
	*bound
}

func (r boundRestorer) Start(context.Context, model.VMRef, model.PointRef, model.Generation, map[string]string) (time.Time, error) {
	if r.hanging != nil {
		close(r.slept)
		<-r.hanging
	}
	r.note("start")
	return time.Now(), nil
}
func (r boundRestorer) Surrender(context.Context, model.VMRef) error { r.note("stop"); return nil }
func (r boundRestorer) Dismantle(context.Context, model.VMRef, model.Generation) error {
	r.note("dismantle")
	return nil
}
func (r boundRestorer) TakeUp(context.Context, model.VMRef) (bool, error) {
	r.note("take up")
	return true, nil
}
func (r boundRestorer) Forget(model.VMRef) error { return nil }

// bind makes host-b the target of an open takeover, generation 2.
func bind(t *testing.T) *bound {
	t.Helper()
	b := &bound{t: t, hostFixture: hostEnv(t), clock: leasetest.NewClock("boot")}
	var err error
	b.records, err = lease.OpenRecords(filepath.Join(t.TempDir(), "records"), time.Now)
	require.NoError(t, err)
	b.grantor = model.Grantor{Address: "control:7460", ID: b.records.ID()}
	b.holder = lease.NewHolder(lease.HolderOptions{
		Host: "host-b", State: b.floors, Clock: b.clock, Guard: boundGuard{b}, Renewer: b,
		Terms: func() model.LeaseTerms { return model.DefaultTerms(2) }, Log: slog.New(slog.DiscardHandler),
	})
	b.Leases, b.Restorer = b.holder, boundRestorer{b.restore, b}
	_, err = b.records.Begin(t.Context(), db1, 1, "host-a")
	require.NoError(t, err)
	_, err = b.records.Claim(t.Context(), db1.UUID, 2, 1, "host-b", "try")
	require.NoError(t, err)
	return b
}

func (b *bound) permit() {
	_, err := b.records.Permit(b.t.Context(), db1.UUID, lease.Permission{
		Generation: 2, Host: "host-b", Attempt: "try", Mode: model.ModeProbation, Terms: model.DefaultTerms(2),
		Evidence: &model.Evidence{Kind: model.EvidenceFenced, Generation: 2},
	})
	require.NoError(b.t, err)
}

func (b *bound) startIn() contract.StartIn {
	return contract.StartIn{Fence: under(2), Point: model.PointRef{Generation: 1, Seq: 1}, Mode: model.ModeProbation, Grantors: []model.Grantor{b.grantor}}
}

func (b *bound) held() lease.Entry {
	e, err := b.floors.Get(db1.UUID)
	require.NoError(b.t, err)
	return e
}

// A start order that lay in a queue for an hour is harmless: not the order starts a VM, the grant does.
func TestAStartNeedsTheGrantOfTheControlPlaneAndAnArmedGuard(t *testing.T) {
	b := bind(t)
	_, err := run(t, b.hostFixture, contract.Start, b.startIn())
	require.Equal(t, "StaleGeneration", kind(t, err), "nothing is permitted yet")
	require.Empty(t, b.told())
	require.False(t, b.held().Holds())

	b.permit()
	b.away = true
	_, err = run(t, b.hostFixture, contract.Start, b.startIn())
	require.Equal(t, "Unreachable", kind(t, err))
	require.Empty(t, b.told())

	b.away = false
	_, err = run(t, b.hostFixture, contract.Start, b.startIn())
	require.NoError(t, err)
	require.Equal(t, []string{"arm", "start"}, b.told())
	require.Equal(t, model.ModeProbation, b.armed.Mode)
	require.EqualValues(t, 2, b.armed.Generation)
	require.Equal(t, b.clock.Now().Add(model.LeaseTTL), b.armed.Deadline)
	require.True(t, b.held().Holds())

	in := b.startIn()
	in.Grantors = []model.Grantor{{Address: "control:7460", ID: "another, since the old folder was lost"}}
	_, err = run(t, b.hostFixture, contract.Start, in)
	require.NoError(t, err, "the grant in hand still lives")
	b.clock.Advance(model.LeaseTTL)
	_, err = run(t, b.hostFixture, contract.Start, in)
	require.Error(t, err)
}

func TestWhatIsTakenBackIsLetGoOfAndCanBeStartedAgain(t *testing.T) {
	b := bind(t)
	b.permit()
	_, err := run(t, b.hostFixture, contract.Start, b.startIn())
	require.NoError(t, err)
	b.told()
	_, err = run(t, b.hostFixture, contract.Dismantle, b.startIn())
	require.NoError(t, err)
	require.Equal(t, []string{"dismantle", "freeze"}, b.told(), "the gate is closed")
	require.False(t, b.held().Holds())
	_, err = run(t, b.hostFixture, contract.Dismantle, b.startIn())
	require.NoError(t, err)
	b.told()

	_, err = run(t, b.hostFixture, contract.Start, b.startIn()) // from an older point
	require.NoError(t, err)
	require.Equal(t, []string{"arm", "start"}, b.told())
	require.True(t, b.held().Holds())
}

// The start hangs inside libvirt, behind all its checks, when the VM is given back.
func TestNothingIsGivenUpBeforeAStartThatHangsHasEnded(t *testing.T) {
	b := bind(t)
	b.permit()
	b.hanging, b.slept = make(chan struct{}), make(chan struct{})
	var suite testsuite.WorkflowTestSuite
	other := suite.NewTestActivityEnvironment()
	b.Register(other, other)
	started := make(chan error, 1)
	go func() {
		_, err := other.ExecuteActivity(contract.Start.Name, b.startIn())
		started <- err
	}()
	<-b.slept
	given := make(chan error, 1)
	go func() {
		_, err := b.env.ExecuteActivity(contract.Surrender.Name, contract.SurrenderIn{Fence: under(3), Attempt: "back"})
		given <- err
	}()
	require.Eventually(t, func() bool { return b.held().Surrendered }, 5*time.Second, 5*time.Millisecond, "durable, whatever hangs")
	select {
	case err := <-given:
		t.Fatal("evidence while a start is under way", err)
	case <-time.After(100 * time.Millisecond):
	}
	close(b.hanging)
	require.NoError(t, <-started)
	require.NoError(t, <-given)
	require.Equal(t, []string{"arm", "start", "stop", "kill"}, b.told())
}

func TestTheOldHolderGoesOnOnlyUnderAGrantOfTheNewGeneration(t *testing.T) {
	b := bind(t)
	in := contract.TakeUpIn{Fence: under(3), Mode: model.ModeSole, Grantors: []model.Grantor{b.grantor}}
	_, err := run(t, b.hostFixture, contract.TakeUp, in)
	require.Error(t, err)
	require.Empty(t, b.told())
	b.permit()
	_, err = b.records.Claim(t.Context(), db1.UUID, 3, 2, "host-b", "back")
	require.NoError(t, err)
	_, err = b.records.Permit(t.Context(), db1.UUID, lease.Permission{Generation: 3, Host: "host-b", Attempt: "back"})
	require.NoError(t, err)
	_, err = run(t, b.hostFixture, contract.TakeUp, in)
	require.NoError(t, err)
	require.Equal(t, []string{"arm", "take up"}, b.told())
	require.Equal(t, model.ModeSole, b.held().Mode)
}

func TestTheWaitIsMeasuredByTheTargetsOwnClockAfterItsSeal(t *testing.T) {
	b := bind(t)
	wait := model.DefaultTerms(2).Wait()
	out, err := run(t, b.hostFixture, contract.Seal, contract.SealIn{Fence: under(2), Attempt: "try"})
	require.NoError(t, err)
	require.Equal(t, model.DefaultTerms(2), out.Terms)
	type waited struct {
		out contract.EvidenceOut
		err error
	}
	done := make(chan waited, 1)
	go func() {
		var w waited
		v, err := b.env.ExecuteActivity(contract.AwaitLease.Name, contract.AwaitLeaseIn{Fence: under(2), Attempt: "try", Wait: wait})
		if w.err = err; err == nil {
			w.err = v.Get(&w.out)
		}
		done <- w
	}()
	b.clock.Advance(wait - time.Millisecond)
	select {
	case w := <-done:
		t.Fatal("too early", w)
	case <-time.After(100 * time.Millisecond):
	}
	b.clock.Advance(time.Millisecond)
	w := <-done
	require.NoError(t, w.err)
	require.Equal(t, model.EvidenceLeaseExpired, w.out.Evidence.Kind)
	require.EqualValues(t, 2, w.out.Evidence.Generation)

	_, err = run(t, b.hostFixture, contract.AwaitLease, contract.AwaitLeaseIn{Fence: under(2), Attempt: "another", Wait: time.Second})
	require.Equal(t, "StaleGeneration", kind(t, err))
}

// To leased the holder goes first, to sole the control plane [C14]; and back it goes never.
func TestModesGoOneWayOnBothSides(t *testing.T) {
	b := bind(t)
	b.permit()
	_, err := run(t, b.hostFixture, contract.Start, b.startIn())
	require.NoError(t, err)
	control := &Control{Records: b.records, Grantor: &b.grantor, Now: time.Now}
	hold := contract.HoldIn{Fence: under(2), Mode: model.ModeSole, Grantors: []model.Grantor{b.grantor}}
	for _, mode := range []model.LeaseMode{model.ModeSole, model.ModeLeased, model.ModeLeased} {
		hold.Mode = mode
		got, err := run(t, b.hostFixture, contract.Hold, hold)
		require.NoError(t, err)
		rec, err := control.setMode(t.Context(), contract.SetModeIn{Fence: under(2), Host: "host-b", Mode: mode, Terms: got.Terms})
		require.NoError(t, err)
		require.Equal(t, mode, rec.Record.Mode)
		require.Equal(t, b.grantor, *rec.Grantor)
		require.Equal(t, mode, b.held().Mode)
		require.Equal(t, mode, b.armed.Mode)
	}
	hold.Mode = model.ModeSole
	_, err = run(t, b.hostFixture, contract.Hold, hold)
	require.Equal(t, "Conflict", kind(t, err))

	_, err = run(t, b.hostFixture, contract.Retire, contract.RetireIn{VM: db1})
	require.NoError(t, err)
	require.Contains(t, b.told(), "forget", "or it could never be started here again")
	require.Zero(t, b.held().Generation)
}
