package agent

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/activities"
	"understudy/internal/model"
)

// pages is a hypervisor that estimates.
type pages struct {
	begun []string
	rate  int64
	done  bool
	err   error
}

func (p *pages) StartMemoryRate(_ context.Context, uuid string, _ time.Duration) error {
	p.begun = append(p.begun, uuid)
	return p.err
}

func (p *pages) MemoryRate(context.Context, string) (int64, bool, error) { return p.rate, p.done, nil }

func TestMemoryIsLookedAtOnlyWhileTheVMWritesAndOnceAMinute(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, filepath.Join(t.TempDir(), "watch"), running(), &plane{})
	p := &pages{rate: 3 << 20, done: true}
	r.memories = p
	seen := func() *model.MemoryRate {
		o, err := r.Observe(ctx, db1)
		require.NoError(t, err)
		return o.Memory
	}
	r.cycle(t, 1)
	r.tick(t, 0)
	for range 50 {
		r.tick(t, 0)
		r.memory(ctx)
	}
	require.Empty(t, p.begun, "an idle VM costs nothing")

	for range 90 { // 3 min
		r.tick(t, 4096)
		r.memory(ctx)
	}
	require.GreaterOrEqual(t, len(p.begun), 3)
	require.LessOrEqual(t, len(p.begun), 4)
	require.EqualValues(t, 3<<20, seen().BytesPerSecond)
	at := seen().At
	require.WithinDuration(t, r.clock, at, time.Minute+4*time.Second)

	r.clock = at.Add(memoryFresh + time.Second)
	require.Nil(t, seen(), "it was long ago")
}

func TestMemoryIsNotLookedAtDuringACaptureAndAFailureIsTriedAgainInTime(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, filepath.Join(t.TempDir(), "watch"), running(), &plane{})
	p := &pages{err: model.Fail(model.JobConflict, nil, "another job holds it")}
	r.memories = p
	r.cycle(t, 1)
	r.Serve(activities.Watched{VM: db1, Generation: 1, RPO: 30 * time.Second})
	point := model.PointRef{Generation: 1, Seq: 2}
	r.Capturing(ctx, db1, point)
	r.tick(t, 0)
	r.tick(t, 4096)
	r.memory(ctx)
	require.Empty(t, p.begun)
	r.Captured(db1, point, r.clock)
	r.Verified(db1, point)
	r.memory(ctx)
	r.tick(t, 4096)
	r.memory(ctx)
	require.Len(t, p.begun, 1)
	p.err = nil
	r.clock = r.clock.Add(memoryEvery)
	r.tick(t, 4096)
	r.memory(ctx)
	require.Len(t, p.begun, 2)
	r.tick(t, 4096)
	r.memory(ctx) // nothing was measured
	o, err := r.Observe(ctx, db1)
	require.NoError(t, err)
	require.Nil(t, o.Memory)
}
