package lease

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"understudy/internal/model"
)

var vm = model.VMRef{Name: "db1", UUID: "11111111-2222-3333-4444-555555555555"}

func fixedNow() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

func open(t *testing.T) *Records {
	t.Helper()
	r, err := OpenRecords(t.TempDir(), fixedNow)
	require.NoError(t, err)
	return r
}

func evidence(g model.Generation) *model.Evidence {
	return &model.Evidence{Kind: model.EvidenceFenced, Generation: g, By: "test"}
}

func TestATakeoverGoesClaimThenPermitWithEvidence(t *testing.T) {
	ctx, r := context.Background(), open(t)
	_, err := r.Begin(ctx, vm, 1, "host-a")
	require.NoError(t, err)

	rec, err := r.Claim(ctx, vm.UUID, 2, 1, "host-b", "try-1")
	require.NoError(t, err)
	require.True(t, rec.Open())

	_, err = r.Permit(ctx, vm.UUID, Permission{Generation: 2, Host: "host-b", Attempt: "try-1", Evidence: nil})
	require.Equal(t, model.FenceUnconfirmed, model.KindOf(err), "a permit without evidence starts a second writer")

	rec, err = r.Permit(ctx, vm.UUID, Permission{Generation: 2, Host: "host-b", Attempt: "try-1", Evidence: evidence(2)})
	require.NoError(t, err)
	require.False(t, rec.Open())
	require.Equal(t, model.HostID("host-b"), rec.PermitHost)
}

func TestClaimRefusesWhatCouldMakeTwoOwners(t *testing.T) {
	cases := []struct {
		name    string
		g, exp  model.Generation
		target  model.HostID
		attempt string
		kind    model.Kind
	}{
		{"a lower generation", 1, 1, "host-b", "x", model.Conflict},
		{"the same generation by another attempt", 2, 1, "host-b", "other", model.Conflict},
		{"an expectation that is no longer true", 3, 7, "host-b", "x", model.Conflict},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			ctx, r := context.Background(), open(t)
			_, err := r.Begin(ctx, vm, 1, "host-a")
			require.NoError(t, err)
			_, err = r.Claim(ctx, vm.UUID, 2, 1, "host-b", "first")
			require.NoError(t, err)
			before, err := r.Read(ctx, vm.UUID)
			require.NoError(t, err)

			_, err = r.Claim(ctx, vm.UUID, c.g, c.exp, c.target, c.attempt)
			require.Equal(t, c.kind, model.KindOf(err))
			after, err := r.Read(ctx, vm.UUID)
			require.NoError(t, err)
			require.Equal(t, before, after)
		})
	}
}

func TestRollbackBurnsAGenerationAndNeedsNoEvidenceOnTheSameHost(t *testing.T) {
	ctx, r := context.Background(), open(t)
	_, err := r.Begin(ctx, vm, 1, "host-a")
	require.NoError(t, err)
	_, err = r.Claim(ctx, vm.UUID, 2, 1, "host-b", "try")
	require.NoError(t, err)
	_, err = r.Claim(ctx, vm.UUID, 3, 1, "host-a", "rollback")
	require.NoError(t, err)
	rec, err := r.Permit(ctx, vm.UUID, Permission{Generation: 3, Host: "host-a", Attempt: "rollback", Evidence: nil})
	require.NoError(t, err)
	require.Equal(t, model.Generation(3), rec.Permitted)

	// C19: evidence of the rolled-back attempt arrives late.
	_, err = r.Claim(ctx, vm.UUID, 4, 3, "host-b", "try-2")
	require.NoError(t, err)
	_, err = r.Permit(ctx, vm.UUID, Permission{Generation: 4, Host: "host-b", Attempt: "try-2", Evidence: evidence(2)})
	require.Equal(t, model.FenceUnconfirmed, model.KindOf(err))
}

func TestRepeatedMessagesChangeNothing(t *testing.T) {
	ctx, r := context.Background(), open(t)
	a, err := r.Begin(ctx, vm, 1, "host-a")
	require.NoError(t, err)
	b, err := r.Begin(ctx, vm, 1, "host-a")
	require.NoError(t, err)
	require.Equal(t, a, b)
	_, err = r.Begin(ctx, vm, 1, "host-b")
	require.Equal(t, model.Conflict, model.KindOf(err))

	c, err := r.Claim(ctx, vm.UUID, 2, 1, "host-b", "try")
	require.NoError(t, err)
	d, err := r.Claim(ctx, vm.UUID, 2, 1, "host-b", "try")
	require.NoError(t, err)
	require.Equal(t, c, d)
	e, err := r.Permit(ctx, vm.UUID, Permission{Generation: 2, Host: "host-b", Attempt: "try", Evidence: evidence(2)})
	require.NoError(t, err)
	f, err := r.Permit(ctx, vm.UUID, Permission{Generation: 2, Host: "host-b", Attempt: "try", Evidence: evidence(2)})
	require.NoError(t, err)
	require.Equal(t, e, f)
	require.NoError(t, r.Drop(ctx, vm.UUID))
	require.NoError(t, r.Drop(ctx, vm.UUID))
}

func TestRecordsRefuseNamesThatAreNotUUIDs(t *testing.T) {
	ctx, r := context.Background(), open(t)
	for _, bad := range []string{"", "../../etc/passwd", "11111111-2222-3333-4444-55555555555/", "11111111-2222-3333-4444-55555555555G"} {
		_, err := r.Read(ctx, bad)
		require.Equal(t, model.InvalidArgument, model.KindOf(err), bad)
	}
}

// Whatever claims and permits arrive in whatever order, the permitted generation never falls and no generation is ever
// permitted on two hosts.
func TestLawPermittedGenerationNeverFallsAndIsNeverShared(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp("", "records")
		require.NoError(rt, err)
		defer os.RemoveAll(dir)
		r, err := OpenRecords(dir, fixedNow)
		require.NoError(rt, err)
		ctx := context.Background()
		_, err = r.Begin(ctx, vm, 1, "host-a")
		require.NoError(rt, err)
		owner := map[model.Generation]model.HostID{1: "host-a"}
		highest := model.Generation(1)
		hosts := rapid.SampledFrom([]model.HostID{"host-a", "host-b", "host-c"})
		for range rapid.IntRange(1, 30).Draw(rt, "steps") {
			g := model.Generation(rapid.Uint64Range(1, 6).Draw(rt, "g"))
			host, attempt := hosts.Draw(rt, "host"), rapid.SampledFrom([]string{"x", "y"}).Draw(rt, "attempt")
			if rapid.Bool().Draw(rt, "claim") {
				_, _ = r.Claim(ctx, vm.UUID, g, model.Generation(rapid.Uint64Range(1, 6).Draw(rt, "expect")), host, attempt)
			} else {
				_, _ = r.Permit(ctx, vm.UUID, Permission{Generation: g, Host: host, Attempt: attempt, Evidence: evidence(model.Generation(rapid.Uint64Range(1, 6).Draw(rt, "ev")))})
			}
			rec, err := r.Read(ctx, vm.UUID)
			require.NoError(rt, err)
			require.GreaterOrEqual(rt, rec.Permitted, highest)
			highest = rec.Permitted
			if h, ok := owner[rec.Permitted]; ok {
				require.Equal(rt, h, rec.PermitHost)
			}
			owner[rec.Permitted] = rec.PermitHost
		}
	})
}

func TestFloorRefusesLowerGenerationsAlsoAfterARestart(t *testing.T) {
	dir := t.TempDir()
	f, err := OpenState(dir, "host-a")
	require.NoError(t, err)
	require.NoError(t, f.Admit(vm, 1))
	require.NoError(t, f.Raise(vm, 2, "try"))
	require.NoError(t, f.Raise(vm, 2, "try"))
	require.Equal(t, model.StaleGeneration, model.KindOf(f.Raise(vm, 2, "other")))

	again, err := OpenState(dir, "host-a")
	require.NoError(t, err)
	require.Equal(t, model.StaleGeneration, model.KindOf(again.Admit(vm, 1)))
	require.NoError(t, again.Admit(vm, 2))
}

func TestADamagedFloorStopsEverything(t *testing.T) {
	dir := t.TempDir()
	f, err := OpenState(dir, "host-a")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, vm.UUID+".json"), []byte("{"), 0o600))
	require.Error(t, f.Admit(vm, 9))
}
