package workflows

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// takeover is a world in which host-a holds generation 1 and host-b has three points.
func takeover(t *testing.T) *world {
	w := newWorld(t)
	_, err := w.records.Begin(context.Background(), theVM, 1, hostA)
	require.NoError(t, err)
	for seq := model.Seq(1); seq <= 3; seq++ {
		at := w.now().Add(time.Duration(seq-4) * 10 * time.Second)
		w.hosts[hostB].points = append(w.hosts[hostB].points, contract.PointView{PointRef: model.PointRef{Generation: 1, Seq: seq}, TakenAt: at, VerifiedAt: at})
	}
	return w
}

func failoverIn() contract.FailoverIn {
	return contract.FailoverIn{VM: theVM, Generation: 2, Expect: 1, From: hostA, To: hostB, Reason: "test", RequestBy: "test", Parent: contract.ProtectID(theVM.UUID)}
}

// run plays a failover and returns what it told its parent.
func (w *world) run(in contract.FailoverIn) (told contract.FailoverOut, err error) {
	w.t.Helper()
	tellings := 0
	w.env.OnSignalExternalWorkflow(mock.Anything, in.Parent, mock.Anything, contract.SigChildFinished.Name, mock.Anything).Return(
		func(_, _, _, _ string, arg any) error {
			tellings++
			told = arg.(contract.ChildFinishedIn).Out
			return nil
		})
	w.env.OnSignalExternalWorkflow(mock.Anything, in.Parent, mock.Anything, contract.SigFailoverHeld.Name, mock.Anything).Return(nil).Maybe()
	w.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: contract.FailoverID(theVM.UUID, in.Generation), TaskQueue: contract.ControlQueue})
	w.env.ExecuteWorkflow(FailoverVM, in)
	require.True(w.t, w.env.IsWorkflowCompleted())
	require.Equal(w.t, 1, tellings)
	return told, w.env.GetWorkflowError()
}

func stepNames(out contract.FailoverOut) []string {
	var names []string
	for _, s := range out.Steps {
		if !slices.Contains([]string{"surrender", "fence", "lease", "person"}, s.Name) {
			names = append(names, s.Name)
		}
	}
	return names
}

// ladderOf is what became of each rung.
func ladderOf(out contract.FailoverOut) map[string]string {
	rungs := map[string]string{}
	for _, s := range out.Steps {
		switch s.Name {
		case "surrender", "fence", "lease", "person":
			rungs[s.Name] = s.Detail + s.Error
		}
	}
	return rungs
}

func TestAFailoverByEachRungOfTheLadder(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(*world, *contract.FailoverIn)
		want    model.EvidenceKind
		fenced  int
	}{
		"the old agent surrenders, no power is cut": {func(*world, *contract.FailoverIn) {}, model.EvidenceSurrendered, 0},
		"a silent host is powered off": {func(w *world, in *contract.FailoverIn) {
			w.hosts[hostA].cutOff, in.FromSilent = true, true
		}, model.EvidenceFenced, 1},
		"a host that does not surrender is powered off": {func(w *world, _ *contract.FailoverIn) {
			w.failNext("surrender", refusal(model.Internal))
		}, model.EvidenceFenced, 1},
		"a person's word, when nothing better is to be had": {func(w *world, in *contract.FailoverIn) {
			w.hosts[hostA].off, w.hosts[hostA].running, in.FromSilent, w.fence = true, false, true, false
			in.Confirmed = &model.Evidence{Kind: model.EvidencePerson, By: "ada", At: w.now()}
		}, model.EvidencePerson, 1},
	} {
		t.Run(name, func(t *testing.T) {
			w, in := takeover(t), failoverIn()
			c.prepare(w, &in)
			out, err := w.run(in)
			require.NoError(t, err)
			require.Equal(t, contract.OutcomeDone, out.Outcome)
			require.Equal(t, c.want, out.Evidence.Kind)
			require.EqualValues(t, 2, out.Evidence.Generation)
			require.Equal(t, c.fenced, w.count("fence"))
			require.True(t, w.hosts[hostB].running)
			require.False(t, w.hosts[hostA].running)
			require.Equal(t, model.PointRef{Generation: 1, Seq: 3}, out.Point.PointRef, "the newest point")
			require.Equal(t, []string{"elect", "fit", "claim", "seal", "prove", "permit", "materialize", "start", "confirm", "boot"}, stepNames(out))
			require.Equal(t, hostB, w.record().PermitHost)
			require.EqualValues(t, 2, w.hosts[hostB].floor)
			require.Empty(t, out.Undone)
		})
	}
}

func TestWithoutEvidenceNothingIsStartedAndTheOldHostKeepsTheVM(t *testing.T) {
	w, in := takeover(t), failoverIn()
	w.hosts[hostA].cutOff, in.FromSilent, w.fence = true, true, false
	out, err := w.run(in)
	require.Equal(t, "FenceUnconfirmed", contract.ErrorType(err))
	require.Equal(t, contract.OutcomeRolledBack, out.Outcome)
	require.Equal(t, "FenceUnconfirmed", out.ErrorType)
	require.Contains(t, out.Try, "--confirm-primary-down")
	require.Empty(t, w.started)
	require.True(t, w.hosts[hostA].running)
	require.Equal(t, hostA, out.HandedBackTo)
	require.EqualValues(t, 3, out.HandedBackGeneration, "the rollback burns a generation")
	rec := w.record()
	require.False(t, rec.Open())
	require.Equal(t, hostA, rec.PermitHost)
	require.EqualValues(t, 3, rec.Permitted)
}

// Evidence that is older than the seals, or of another attempt, is no evidence.
func TestEvidenceOfAnotherAttemptIsRefused(t *testing.T) {
	w, in := takeover(t), failoverIn()
	w.hosts[hostA].cutOff = true
	w.env.OnActivity(contract.FencePower.Name, mock.Anything, mock.Anything).Return(func(context.Context, contract.FenceIn) (contract.EvidenceOut, error) {
		return contract.EvidenceOut{Evidence: model.Evidence{Kind: model.EvidenceFenced, Generation: 1}}, nil
	})
	_, err := w.run(in)
	require.Equal(t, "FenceUnconfirmed", contract.ErrorType(err))
	require.Empty(t, w.started)
}

func TestEachStepFailsInTurnAndIsTakenBack(t *testing.T) {
	for _, c := range []struct {
		step   string
		times  int // the activity fails so often
		undone []string
		stops  bool // the old copy was stopped for it
		permit model.Generation
		holder model.HostID
	}{
		{"points", 1, nil, false, 1, hostA},
		{"claim", 1, nil, false, 1, hostA}, // refused: nothing of ours is in the record
		{"seal", 1, []string{"hand back"}, false, 3, hostA},
		{"permit", 1, []string{"hand back", "clear away"}, true, 3, hostA}, // of the disks that were laid out beside it
		{"materialize", 3, []string{"dismantle", "hand back"}, true, 3, hostA},
		{"start", 3, []string{"dismantle", "hand back"}, true, 3, hostA},
		{"confirm", 3, []string{"dismantle", "hand back"}, true, 3, hostA},
	} {
		for _, lost := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s fails, reply lost: %v", c.step, lost), func(t *testing.T) {
				w := takeover(t)
				for range c.times {
					w.faults[c.step] = append(w.faults[c.step], fault{refusal(model.Refused), lost})
				}
				permit, undone := c.permit, c.undone
				if lost && c.step == "claim" { // refused, and yet in the record: an open claim would take the VM its grantors
					permit, undone = 3, []string{"hand back"}
				}
				out, err := w.run(failoverIn())
				require.Equal(t, "Refused", contract.ErrorType(err), "the first error, untouched")
				require.Equal(t, contract.OutcomeRolledBack, out.Outcome)
				require.Equal(t, undone, out.Undone)
				require.Empty(t, out.UndoFailed)
				rec := w.record()
				require.Equal(t, permit, rec.Permitted)
				require.Equal(t, c.holder, rec.PermitHost)
				require.False(t, w.hosts[hostB].running)
				require.Equal(t, !c.stops, w.hosts[hostA].running)
			})
		}
	}
}

// A step whose answer is lost is done again by Temporal: it must come to the same.
func TestEachStepMayRunTwice(t *testing.T) {
	for _, step := range []string{"points", "claim", "seal", "permit", "materialize", "start", "confirm"} {
		t.Run(step, func(t *testing.T) {
			w := takeover(t)
			w.loseReply(step, 1)
			out, err := w.run(failoverIn())
			require.NoError(t, err)
			require.Equal(t, contract.OutcomeDone, out.Outcome)
			require.Equal(t, 2, w.count(step))
			require.True(t, w.hosts[hostB].running)
		})
	}
}

func TestAFailoverCancelledAtEachStepIsTakenBack(t *testing.T) {
	for _, step := range []string{"points", "claim", "seal", "surrender", "permit", "materialize", "start", "confirm"} {
		t.Run(step, func(t *testing.T) {
			w := takeover(t)
			once := false
			w.hooks[step] = func(ctx context.Context) {
				if once {
					return
				}
				once = true
				w.env.CancelWorkflow()
				<-ctx.Done()
			}
			out, err := w.run(failoverIn())
			require.Error(t, err)
			require.Equal(t, contract.OutcomeRolledBack, out.Outcome, "%+v", out)
			require.Empty(t, out.UndoFailed)
			require.False(t, w.hosts[hostB].running)
			require.Equal(t, hostA, w.record().PermitHost)
			if step != "points" {
				require.Contains(t, out.Undone, "hand back")
			}
		})
	}
}

func TestAPointThatDoesNotStartGivesWayToAnOlderOne(t *testing.T) {
	w := takeover(t)
	w.failNext("start", refusal(model.ChainBroken))
	out, err := w.run(failoverIn())
	require.NoError(t, err)
	require.Equal(t, model.Seq(2), out.Point.Seq)
	require.Equal(t, 1, w.count("dismantle"))
	require.True(t, w.hosts[hostB].running)
}

func TestAPointThatAPersonChoseIsNotReplaced(t *testing.T) {
	w, in := takeover(t), failoverIn()
	in.Seq = 2
	w.failNext("start", refusal(model.ChainBroken))
	out, err := w.run(in)
	require.Equal(t, "ChainBroken", contract.ErrorType(err))
	require.Equal(t, model.Seq(2), out.Point.Seq)
	require.Equal(t, 1, w.count("start"))
}

func TestATargetLostAfterThePermitLeavesTheVMToAPerson(t *testing.T) {
	w := takeover(t)
	w.hooks["materialize"] = func(context.Context) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.hosts[hostB].off = true
	}
	out, err := w.run(failoverIn())
	require.Equal(t, "Unreachable", contract.ErrorType(err))
	require.Equal(t, contract.OutcomeFailed, out.Outcome)
	require.NotEmpty(t, out.UndoFailed)
	require.Equal(t, hostB, w.record().PermitHost, "nobody else may run it without proof")
	require.Equal(t, hostB, out.PermittedTo)
}

func TestARecordThatSaysOtherwiseRefusesTheClaim(t *testing.T) {
	w, in := takeover(t), failoverIn()
	_, err := w.records.Claim(context.Background(), theVM.UUID, 5, 1, hostB, "somebody else")
	require.NoError(t, err)
	out, err := w.run(in)
	require.Equal(t, "Conflict", contract.ErrorType(err))
	require.EqualValues(t, 5, out.Record.Claimed, "the parent learns which numbers are gone")
	require.EqualValues(t, 5, w.record().Claimed)
	require.Zero(t, w.count("surrender"))
}
