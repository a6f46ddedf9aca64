package activities

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/testsuite"

	"understudy/internal/contract"
	"understudy/internal/snapshot"
)

// waiting is a source whose capture waits for its turn until the VM was retired.
type waiting struct {
	*fakeSource
	asked, retired chan struct{}
	took           bool
}

func (w *waiting) Take(ctx context.Context, r snapshot.Request) (snapshot.Snapshot, error) {
	close(w.asked)
	<-w.retired
	if err := r.Wanted(); err != nil {
		return snapshot.Snapshot{}, err
	}
	w.took = true
	return w.fakeSource.Take(ctx, r)
}

// A person removes the protection while a capture waits for its turn: it comes too late, and leaves neither a capture nor a floor
// nor a watch that nobody would remove.
func TestACaptureThatWaitedForTheEndOfTheProtectionDoesNothing(t *testing.T) {
	f := hostEnv(t)
	w := &waiting{fakeSource: f.source, asked: make(chan struct{}), retired: make(chan struct{})}
	f.Snapshot = w
	_, err := run(t, f, contract.Seal, contract.SealIn{Fence: under(1), FloorOnly: true})
	require.NoError(t, err)
	late := make(chan error)
	go func() {
		_, err := f.env.ExecuteActivity(contract.Snapshot.Name, contract.SnapshotIn{Fence: under(1), Seq: 2})
		late <- err
	}()
	<-w.asked
	var suite testsuite.WorkflowTestSuite
	beside := suite.NewTestActivityEnvironment()
	f.Register(beside, beside)
	_, err = beside.ExecuteActivity(contract.Retire.Name, contract.RetireIn{VM: db1, PurgeReplica: true})
	require.NoError(t, err)
	close(w.retired)
	require.Equal(t, "StaleGeneration", kind(t, <-late))
	require.False(t, w.took)
	require.Equal(t, []string{"serve", "capturing", "forget", "forget", "abandoned"}, f.watcher.calls)
	floor, err := f.floors.Get(db1.UUID)
	require.NoError(t, err)
	require.Zero(t, floor.Generation)
}

func TestOrdersOfARemovedProtectionAreRefusedUntilTheNextOneBegins(t *testing.T) {
	f := hostEnv(t)
	_, err := run(t, f, contract.Retire, contract.RetireIn{VM: db1})
	require.NoError(t, err)
	for name, in := range map[string]any{
		contract.Snapshot.Name:  contract.SnapshotIn{Fence: under(1)},
		contract.Replicate.Name: contract.ReplicateIn{Fence: under(1)},
		contract.Verify.Name:    contract.VerifyIn{Fence: under(1)},
		contract.Observe.Name:   contract.ObserveIn{Fence: under(1)},
	} {
		_, err := f.env.ExecuteActivity(name, in)
		require.Equal(t, "StaleGeneration", kind(t, err), name)
	}
	require.NotContains(t, f.watcher.calls, "serve")
	all, err := f.floors.All()
	require.NoError(t, err)
	require.Empty(t, all)
	_, err = run(t, f, contract.Seal, contract.SealIn{Fence: under(1), FloorOnly: true})
	require.NoError(t, err)
	_, err = run(t, f, contract.Snapshot, contract.SnapshotIn{Fence: under(1), Seq: 1})
	require.NoError(t, err)
}
