package workflows

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// after holds a step up until another one was asked for, which in a failover of one step after the other would never be.
func (w *world) after(step, other string) {
	w.hooks[step] = func(ctx context.Context) {
		for limit := time.Now().Add(30 * time.Second); w.count(other) == 0 && time.Now().Before(limit); {
			w.sleep(ctx, 10*time.Millisecond)
		}
		if w.count(other) == 0 {
			w.t.Errorf("%s was not asked for while %s was under way", other, step)
		}
	}
}

func (w *world) inOrder(steps ...string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, c := range w.calls {
		if name, _, _ := strings.Cut(c, "@"); slices.Contains(steps, name) {
			out = append(out, name)
		}
	}
	return out
}

func TestWhatNeedsNothingOfEachOtherIsDoneTogether(t *testing.T) {
	t.Run("fit while the points are listed", func(t *testing.T) {
		w, in := takeover(t), failoverIn()
		in.Newest = model.PointRef{Generation: 1, Seq: 3}
		w.after("points", "fit")
		_, err := w.run(in)
		require.NoError(t, err)
		require.Equal(t, 1, w.count("fit"))
	})
	t.Run("the disks while evidence is gathered", func(t *testing.T) {
		w := takeover(t)
		w.after("surrender", "materialize")
		_, err := w.run(failoverIn())
		require.NoError(t, err)
		require.Equal(t, 1, w.count("materialize"))
		require.Equal(t, []string{"seal", "permit", "start"}, w.inOrder("seal", "permit", "start"))
	})
	t.Run("the disks of what was salvaged while the record is written", func(t *testing.T) {
		w := takeover(t)
		in := salvaging(w)
		w.after("permit", "materialize")
		out, err := w.run(in)
		require.NoError(t, err)
		require.Equal(t, in.Salvage.Seq, out.Point.Seq)
		require.Equal(t, []model.PointRef{{Generation: 2, Seq: 9}}, w.started)
		require.Equal(t, []string{"salvage", "verify", "permit", "start"}, w.inOrder("salvage", "verify", "permit", "start"))
		require.Equal(t, 1, w.count("materialize"))
		require.Equal(t, 2, w.count("points"), "once to choose, once when the target was sealed")
	})
}

func TestAnotherPointThanTheExpectedOneIsAskedAbout(t *testing.T) {
	w, in := takeover(t), failoverIn()
	in.Newest = model.PointRef{Generation: 1, Seq: 2}
	out, err := w.run(in)
	require.NoError(t, err)
	require.EqualValues(t, 3, out.Point.Seq)
	require.Equal(t, 2, w.count("fit"))
}

// What was laid out for a start that nobody permits is taken away, and the VM's way back does not wait for that.
func TestDisksThatWereLaidOutForNothingAreTakenAway(t *testing.T) {
	for name, lost := range map[string]bool{"by the target": false, "not by one that is lost": true} {
		t.Run(name, func(t *testing.T) {
			w, in := bound(t)
			w.fence, w.hosts[hostA].cutOff = false, true
			w.hooks["await-lease"] = func(ctx context.Context) {
				if lost {
					w.news(hostB, true)
				}
				w.sleep(ctx, 100*time.Millisecond)
			}
			w.failNext("await-lease", refusal(model.Unreachable))
			out, err := w.run(in)
			require.Error(t, err)
			w.sound(out)
			require.Empty(t, w.started)
			want := []string{"permit", "dismantle"}
			if lost {
				want = want[:1]
			}
			require.Equal(t, want, w.inOrder("permit", "dismantle"), "the permit is the hand-back's")
			require.Equal(t, contract.OutcomeRolledBack, out.Outcome)
			require.Empty(t, out.UndoFailed)
		})
	}
}
