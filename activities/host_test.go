package activities

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/testsuite"

	"understudy/internal/contract"
	"understudy/internal/decide/retention"
	"understudy/internal/hypervisor"
	"understudy/internal/lease"
	"understudy/internal/model"
	"understudy/internal/snapshot"
)

// Each fake embeds the port it stands in for: a call that a test does not expect panics.
type fakeSource struct {
	Snapshots
	takeErr error
	facts   model.DomainFacts
	domain  hypervisor.Domain
	refusal error
}

func (f *fakeSource) Take(_ context.Context, r snapshot.Request) (snapshot.Snapshot, error) {
	return snapshot.Snapshot{Point: r.Point, TakenAt: time.Now(), Disks: []model.SnapshotDisk{{DirtyBytes: 3}, {DirtyBytes: 4}}}, f.takeErr
}

func (f *fakeSource) Admit(context.Context, string) (model.DomainFacts, hypervisor.Domain, error) {
	return f.facts, f.domain, f.refusal
}

func (f *fakeSource) Leave(context.Context, model.VMRef) ([]string, error)  { return nil, nil }
func (f *fakeSource) Retire(context.Context, model.VMRef) ([]string, error) { return nil, nil }

type fakeStore struct {
	Store
	free      int64
	points    []model.Point
	xml       string
	sender    model.HostID
	onProve   func()
	removeErr error
	removed   bool
	holds     []model.Hold
	dropped   []string
	pruned    []retention.Rules
}

func (f *fakeStore) Holds(context.Context, model.VMRef) ([]model.Hold, error) { return f.holds, nil }
func (f *fakeStore) Deactivate(_ context.Context, _ model.VMRef, name string) error {
	f.dropped = append(f.dropped, name)
	return nil
}

func (f *fakeStore) Usage() (int64, int64, error) { return f.free, 1 << 40, nil }
func (f *fakeStore) Points(context.Context, model.VMRef) ([]model.Point, error) {
	return f.points, nil
}
func (f *fakeStore) Point(_ context.Context, _ model.VMRef, p model.PointRef) (model.Point, error) {
	for _, have := range f.points {
		if have.PointRef == p {
			return have, nil
		}
	}
	return model.Point{}, model.Fail(model.NotFound, nil, "no such point")
}
func (f *fakeStore) BytesOnDisk(context.Context, model.VMRef, model.PointRef) (int64, error) {
	return 1 << 30, nil
}
func (f *fakeStore) StagedSpec(context.Context, model.VMRef, model.PointRef) (model.StagingSpec, error) {
	return model.StagingSpec{DomainXML: f.xml, Sender: f.sender}, nil
}
func (f *fakeStore) Prove(_ context.Context, vm model.VMRef, p model.PointRef, _ func(int64, int64)) (model.Receipt, error) {
	if f.onProve != nil {
		f.onProve()
	}
	return model.Receipt{VM: vm, PointRef: p, ProvedAt: time.Now()}, nil
}
func (f *fakeStore) Commit(_ context.Context, _ model.Receipt, p model.Point) (model.Point, error) {
	f.points = append(f.points, p)
	return p, nil
}
func (f *fakeStore) PruneTo(_ context.Context, _ model.VMRef, r retention.Rules) ([]model.Seq, string, error) {
	f.pruned = append(f.pruned, r)
	return nil, "a VM runs from it", nil
}
func (f *fakeStore) Remove(context.Context, model.VMRef) error {
	f.removed = f.removeErr == nil
	return f.removeErr
}

type fakeRestorer struct {
	Restorer
	surrendered bool
	err         error
}

func (f *fakeRestorer) Forget(model.VMRef) error { return nil }

func (f *fakeRestorer) Again(context.Context, model.VMRef) (time.Time, bool, error) {
	return time.Time{}, true, nil
}
func (f *fakeRestorer) Surrender(context.Context, model.VMRef) error {
	f.surrendered = true
	return f.err
}

type fakeDomains []hypervisor.Domain

func (f fakeDomains) Domains(context.Context) ([]hypervisor.Domain, error) { return f, nil }
func (f fakeDomains) Domain(_ context.Context, uuid string) (hypervisor.Domain, error) {
	for _, d := range f {
		if d.VM.UUID == uuid {
			return d, nil
		}
	}
	return hypervisor.Domain{}, model.Fail(model.NotFound, nil, "no such domain")
}

type fakeWatcher struct {
	mu         sync.Mutex
	calls      []string
	onCaptured func()
	observeErr error
}

func (f *fakeWatcher) note(s string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, s)
}

func (f *fakeWatcher) Serve(Watched)                                          { f.note("serve") }
func (f *fakeWatcher) Capturing(context.Context, model.VMRef, model.PointRef) { f.note("capturing") }
func (f *fakeWatcher) Captured(model.VMRef, model.PointRef, time.Time) *time.Time {
	if f.onCaptured != nil {
		f.onCaptured()
	}
	return &time.Time{}
}
func (f *fakeWatcher) Answering(model.VMRef, model.PointRef)           { f.note("answering") }
func (f *fakeWatcher) CapturedBytes(model.VMRef, model.PointRef) int64 { return 9 }
func (f *fakeWatcher) Abandoned(model.VMRef, model.PointRef)           { f.note("abandoned") }
func (f *fakeWatcher) Verified(model.VMRef, model.PointRef)            { f.note("verified") }
func (f *fakeWatcher) Yield(model.VMRef, model.Generation)             { f.note("yield") }
func (f *fakeWatcher) Forget(model.VMRef) error                        { f.note("forget"); return nil }
func (f *fakeWatcher) Observe(context.Context, model.VMRef) (model.Observation, error) {
	return model.Observation{}, f.observeErr
}

type fakeSelf struct{ atRest string }

func (fakeSelf) Facts(context.Context) model.HostFacts { return model.HostFacts{Host: "host-b"} }
func (s fakeSelf) AtRest() string                      { return s.atRest }
func (fakeSelf) Doctor(context.Context) []model.Check  { return nil }

type hostFixture struct {
	*Host
	env     *testsuite.TestActivityEnvironment
	floors  *lease.State
	source  *fakeSource
	store   *fakeStore
	restore *fakeRestorer
	watcher *fakeWatcher
}

func hostEnv(t *testing.T) *hostFixture {
	t.Helper()
	floors, err := lease.OpenState(t.TempDir(), "host-b")
	require.NoError(t, err)
	f := &hostFixture{floors: floors, source: &fakeSource{}, store: &fakeStore{free: 10 << 30}, restore: &fakeRestorer{}, watcher: &fakeWatcher{}}
	f.Host = &Host{
		ID: "host-b", Floors: floors, Leases: unguarded(t, floors), Snapshot: f.source, Store: f.store, Restorer: f.restore, Watcher: f.watcher,
		Self: fakeSelf{}, Domains: fakeDomains{}, Reserve: 1 << 30, Now: time.Now,
		Standing: func(context.Context, []byte) error { return nil },
	}
	var suite testsuite.WorkflowTestSuite
	f.env = suite.NewTestActivityEnvironment()
	f.Register(f.env, f.env)
	return f
}

// unguarded holds leases on a host that has no guard: everything is in mode sole.
func unguarded(t *testing.T, s *lease.State) *lease.Holder {
	clock, err := lease.SystemClock()
	require.NoError(t, err)
	return lease.NewHolder(lease.HolderOptions{Host: "host-b", State: s, Clock: clock, Terms: func() model.LeaseTerms { return model.DefaultTerms(0) }})
}

// run executes a handle's activity as the server would.
func run[In, Out any](t *testing.T, f *hostFixture, a contract.Activity[In, Out], in In) (Out, error) {
	t.Helper()
	var out Out
	v, err := f.env.ExecuteActivity(a.Name, in)
	if err == nil {
		require.NoError(t, v.Get(&out))
	}
	return out, err
}

func under(g model.Generation) contract.Fence { return contract.Fence{VM: db1, Generation: g} }

// A partition heals and the host receives what was ordered before it: the control plane has long decided otherwise.
func TestAnOrderThatCameTooLateStopsAndStartsNothing(t *testing.T) {
	for _, c := range []struct {
		answer error
		kind   model.Kind
	}{
		{serviceerror.NewNotFound("workflow execution already completed"), model.StaleGeneration},
		{errors.New("connection refused"), model.Unreachable},
	} {
		f := hostEnv(t)
		f.Standing = func(context.Context, []byte) error { return c.answer }
		_, err := run(t, f, contract.Surrender, contract.SurrenderIn{Fence: under(2), Attempt: "late"})
		require.Equal(t, string(c.kind), kind(t, err))
		_, err = run(t, f, contract.Start, contract.StartIn{Fence: under(2)})
		require.Equal(t, string(c.kind), kind(t, err))
		_, err = run(t, f, contract.Dismantle, contract.StartIn{Fence: under(2)})
		require.Equal(t, string(c.kind), kind(t, err))
		require.Empty(t, f.watcher.calls)
		require.False(t, f.restore.surrendered)
		floor, err := f.floors.Get(db1.UUID)
		require.NoError(t, err)
		require.Less(t, floor.Generation, model.Generation(3))
	}
}

// The fakes panic on every call but the expected ones, so none of these reaches a stage.
func TestAnOldGenerationDoesNothingOnAHostThatKnowsBetter(t *testing.T) {
	f := hostEnv(t)
	_, err := run(t, f, contract.Seal, contract.SealIn{Fence: under(5), Attempt: "failover"})
	require.NoError(t, err)
	f.watcher.calls = nil
	point := contract.PointIn{Fence: under(4), Point: model.PointRef{Generation: 4, Seq: 9}}
	for name, in := range map[string]any{
		contract.Snapshot.Name:    contract.SnapshotIn{Fence: under(4)},
		contract.Abandon.Name:     point,
		contract.Settle.Name:      contract.SettleIn{PointIn: point},
		contract.Discard.Name:     point,
		contract.Replicate.Name:   contract.ReplicateIn{Fence: under(4)},
		contract.Verify.Name:      contract.VerifyIn{Fence: under(4)},
		contract.Prune.Name:       contract.PruneIn{Fence: under(4)},
		contract.Observe.Name:     contract.ObserveIn{Fence: under(4)},
		contract.Seal.Name:        contract.SealIn{Fence: under(4), Attempt: "late"},
		contract.Surrender.Name:   contract.SurrenderIn{Fence: under(4), Attempt: "late"},
		contract.Materialize.Name: contract.MaterializeIn{Fence: under(4)},
		contract.Start.Name:       contract.StartIn{Fence: under(4)},
		contract.Confirm.Name:     contract.ConfirmIn{Fence: under(4)},
		contract.Dismantle.Name:   contract.StartIn{Fence: under(4)},
	} {
		_, err := f.env.ExecuteActivity(name, in)
		require.Equal(t, "StaleGeneration", kind(t, err), name)
	}
	require.False(t, f.restore.surrendered)
	require.Empty(t, f.watcher.calls)
}

func TestEvidenceComesAfterTheFloorAndTheProof(t *testing.T) {
	f := hostEnv(t)
	f.restore.err = model.Fail(model.FenceUnconfirmed, nil, "still running")
	_, err := run(t, f, contract.Surrender, contract.SurrenderIn{Fence: under(2), Attempt: "try"})
	require.Equal(t, "FenceUnconfirmed", kind(t, err))
	floor, err := f.floors.Get(db1.UUID)
	require.NoError(t, err)
	require.EqualValues(t, 2, floor.Generation, "without proof it stays sealed all the same")

	f.restore.err = nil
	out, err := run(t, f, contract.Surrender, contract.SurrenderIn{Fence: under(2), Attempt: "try"})
	require.NoError(t, err)
	require.Equal(t, model.EvidenceSurrendered, out.Evidence.Kind)
	require.EqualValues(t, 2, out.Evidence.Generation)
}

func TestACaptureThatFailedGivesItsWritesBack(t *testing.T) {
	f := hostEnv(t)
	f.source.takeErr = model.Fail(model.JobConflict, nil, "another job")
	_, err := run(t, f, contract.Snapshot, contract.SnapshotIn{Fence: under(1), Seq: 7})
	require.Equal(t, "JobConflict", kind(t, err))
	require.Equal(t, []string{"serve", "capturing", "abandoned"}, f.watcher.calls)

	f.source.takeErr = nil
	out, err := run(t, f, contract.Snapshot, contract.SnapshotIn{Fence: under(1), Seq: 7})
	require.NoError(t, err)
	require.EqualValues(t, 7, out.DirtyBytes)
	require.NotNil(t, out.Origin)
}

func TestVerifyCommitsOnceAndNeverUnderATakeover(t *testing.T) {
	f := hostEnv(t)
	f.store.xml = "<domain/>"
	in := contract.VerifyIn{Fence: under(1), Point: model.PointRef{Generation: 1, Seq: 3}, Disks: []model.SnapshotDisk{{Disk: model.Disk{Target: "vda"}}}, Stats: []contract.DiskStats{{Target: "vda", SentBytes: 9}}}
	f.store.onProve = func() { require.NoError(t, f.floors.Raise(db1, 2, "failover")) }
	_, err := run(t, f, contract.Verify, in)
	require.Equal(t, "StaleGeneration", kind(t, err), "the takeover began while it was proved")
	require.Empty(t, f.store.points)

	in.Fence, in.Point.Generation = under(2), 2
	f.store.onProve = nil
	_, err = run(t, f, contract.Verify, in)
	require.NoError(t, err)
	f.store.onProve = func() { t.Fatal("it is committed already") }
	out, err := run(t, f, contract.Verify, in)
	require.NoError(t, err, "the first answer was lost")
	require.Equal(t, 1, out.Points)
	require.Equal(t, "<domain/>", f.store.points[0].DomainXML)
	require.EqualValues(t, 9, f.store.points[0].Disks[0].SentBytes)
}

func TestAPointThatAnotherHostSentIsNotCommitted(t *testing.T) {
	f := hostEnv(t)
	in := contract.VerifyIn{Fence: under(1), Point: model.PointRef{Generation: 1, Seq: 3}, Primary: "host-a", Disks: []model.SnapshotDisk{{Disk: model.Disk{Target: "vda"}}}, Stats: []contract.DiskStats{{Target: "vda"}}}
	f.store.sender = "host-c"
	_, err := run(t, f, contract.Verify, in)
	require.Equal(t, "Refused", kind(t, err))
	require.Empty(t, f.store.points)
	f.store.sender = "host-a"
	_, err = run(t, f, contract.Verify, in)
	require.NoError(t, err)
}

func TestTheStandbyRefusesWhatItCouldNotStart(t *testing.T) {
	need := contract.PreflightIn{VM: db1, Policy: model.DefaultPolicy(), Disks: []model.Disk{{Target: "vda"}}, NeedBytes: 4 << 30}
	other := model.VMRef{Name: db1.Name, UUID: "99999999-2222-3333-4444-555555555555"}
	cases := []struct {
		name    string
		domains fakeDomains
		free    int64
		held    int
		want    string // kind; empty: accepted
	}{
		{"room and nobody there", nil, 5 << 30, 0, ""},
		{"no room for data and reserve", nil, 5<<30 - 1, 0, "TargetFull"},
		{"an earlier replica takes a part of it already", nil, 2 << 30, 3, ""},
		{"the same VM runs there", fakeDomains{{VM: db1, State: hypervisor.Running}}, 10 << 30, 0, "Conflict"},
		{"an old definition of it", fakeDomains{{VM: db1, State: hypervisor.ShutOff}}, 10 << 30, 0, ""},
		{"another VM has its name", fakeDomains{{VM: other, State: hypervisor.ShutOff}}, 10 << 30, 0, "Conflict"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			f := hostEnv(t)
			f.Domains, f.store.free, f.store.points = c.domains, c.free, make([]model.Point, c.held)
			_, err := run(t, f, contract.Preflight, need)
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.Equal(t, c.want, kind(t, err))
			floor, ferr := f.floors.Get(db1.UUID)
			require.NoError(t, ferr)
			require.Zero(t, floor.Generation, "a refusal leaves nothing behind")
			require.Empty(t, f.watcher.calls)
		})
	}
}

func TestThePrimaryRefusesWhatCannotBeReplicated(t *testing.T) {
	in := contract.PreflightIn{VM: db1, Policy: model.DefaultPolicy()}
	f := hostEnv(t)
	f.source.refusal = model.Fail(model.Refused, nil, "disk vdb lies outside the folders")
	_, err := run(t, f, contract.Preflight, in)
	require.Equal(t, "Refused", kind(t, err))

	f.source.refusal = nil
	disk := model.Disk{Target: "vda", Format: model.FormatRaw}
	f.source.facts = model.DomainFacts{VM: db1, Running: true, Disks: []model.Disk{disk}}
	f.source.domain = hypervisor.Domain{VM: db1, Disks: []hypervisor.Disk{{Disk: disk, Allocated: 77}, {Disk: model.Disk{Target: "sda"}, Allocated: 5, ReadOnly: true}}}
	_, err = run(t, f, contract.Preflight, in)
	require.Equal(t, "Unsupported", kind(t, err), "transient")

	f.source.domain.Persistent = true
	out, err := run(t, f, contract.Preflight, in)
	require.NoError(t, err)
	require.EqualValues(t, 77, out.NeedBytes)
	require.Len(t, out.Warnings, 1, "raw costs more")

	in.Policy.RPO = time.Millisecond
	_, err = run(t, f, contract.Preflight, in)
	require.Equal(t, "InvalidArgument", kind(t, err))
}

func TestWhatRetireCannotRemoveIsListedAndKeepsTheFloor(t *testing.T) {
	f := hostEnv(t)
	require.NoError(t, f.floors.Raise(db1, 3, "x"))
	f.store.removeErr = model.Fail(model.Conflict, nil, "the VM runs from it")
	out, err := run(t, f, contract.Retire, contract.RetireIn{VM: db1, PurgeReplica: true})
	require.NoError(t, err)
	require.Len(t, out.Leftovers, 1)
	floor, err := f.floors.Get(db1.UUID)
	require.NoError(t, err)
	require.EqualValues(t, 3, floor.Generation)

	f.store.removeErr = nil
	out, err = run(t, f, contract.Retire, contract.RetireIn{VM: db1, PurgeReplica: true})
	require.NoError(t, err)
	require.Empty(t, out.Leftovers)
	floor, err = f.floors.Get(db1.UUID)
	require.NoError(t, err)
	require.Zero(t, floor.Generation)
}

func TestTheRescueCopyGoesWhenThePolicyIsMetWithoutIt(t *testing.T) {
	f := hostEnv(t)
	f.store.holds = []model.Hold{{Name: "g3"}, {Name: "g5"}, {Name: "test-1"}}
	for seq := model.Seq(10); seq < 13; seq++ {
		require.Empty(t, f.store.dropped)
		_, err := run(t, f, contract.Verify, contract.VerifyIn{Fence: under(5), Point: model.PointRef{Generation: 5, Seq: seq}, KeepLast: 3})
		require.NoError(t, err)
	}
	require.Equal(t, []string{"g3"}, f.store.dropped)
}

func TestRetentionFollowsAllRulesAndMayWaitButNotForEver(t *testing.T) {
	f := hostEnv(t)
	rules := retention.Rules{Last: 2, Hourly: 1, Daily: 1}
	verify := func(seq model.Seq, postpone bool) {
		_, err := run(t, f, contract.Verify, contract.VerifyIn{
			Fence: under(5), Point: model.PointRef{Generation: 5, Seq: seq}, KeepLast: rules.Last, Hourly: rules.Hourly, Daily: rules.Daily, PostponeMerges: postpone,
		})
		require.NoError(t, err)
	}
	for seq := model.Seq(1); seq <= 8; seq++ {
		verify(seq, true)
	}
	require.Empty(t, f.store.pruned)
	verify(9, true) // the fake drops nothing: twice as many as are kept
	require.Equal(t, []retention.Rules{rules}, f.store.pruned)
	_, err := run(t, f, contract.Prune, contract.PruneIn{Fence: under(5), KeepLast: 2, Hourly: 1, Daily: 1})
	require.NoError(t, err)
	require.Equal(t, []retention.Rules{rules, rules}, f.store.pruned)
}
