package workflows

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/model"
)

func salvaging(w *world) contract.FailoverIn {
	in := failoverIn()
	in.Salvage = &contract.Salvage{Seq: 9, Budget: 10 * time.Second, LinkAddress: "host-b:7450"}
	w.hosts[hostA].running, w.readable = false, true // it crashed, on a host that is well
	return in
}

func TestACrashOnAHostThatIsWellLosesNothing(t *testing.T) {
	w := takeover(t)
	out, err := w.run(salvaging(w))
	require.NoError(t, err)
	require.Equal(t, []string{"elect", "fit", "claim", "seal", "prove", "salvage", "permit", "materialize", "start", "confirm", "boot"}, stepNames(out))
	last := model.PointRef{Generation: 2, Seq: 9}
	require.Equal(t, last, out.Point.PointRef, "the point of the dead VM's disks is started")
	require.Equal(t, &last, out.Salvaged)
	require.Equal(t, model.PointRef{Generation: 1, Seq: 3}, w.built[0].Parent)
	require.Equal(t, []model.PointRef{last}, w.started)
}

func TestAFailoverNeverNeedsTheSalvage(t *testing.T) {
	for name, prepare := range map[string]func(*world, *contract.FailoverIn){
		"the disks cannot be read":    func(w *world, _ *contract.FailoverIn) { w.readable = false },
		"the agent dies in the work":  func(w *world, _ *contract.FailoverIn) { w.timeOut("salvage", 1) },
		"what was read is not proved": func(w *world, _ *contract.FailoverIn) { w.failNext("verify", refusal(model.VerifyMismatch)) },
		"the host was powered off": func(w *world, in *contract.FailoverIn) {
			w.hosts[hostA].cutOff, in.FromSilent = true, true
		},
		"it takes too long": func(w *world, _ *contract.FailoverIn) {
			w.hooks["salvage"] = func(ctx context.Context) { <-ctx.Done() }
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := takeover(t)
			in := salvaging(w)
			prepare(w, &in)
			out, err := w.run(in)
			require.NoError(t, err)
			require.Equal(t, contract.OutcomeDone, out.Outcome)
			require.Equal(t, model.PointRef{Generation: 1, Seq: 3}, out.Point.PointRef)
			require.Nil(t, out.Salvaged)
		})
	}
}

func TestASalvageWhoseAnswerIsLostIsFoundInTheStore(t *testing.T) {
	w := takeover(t)
	in := salvaging(w)
	w.loseReply("verify", 5)
	out, err := w.run(in)
	require.NoError(t, err)
	require.EqualValues(t, 9, out.Point.Seq)
	require.NotNil(t, out.Salvaged)
}

func TestAProtectionBuildsOnWhatWasSalvagedWhenTheFailoverCameToNothing(t *testing.T) {
	p := &protection{st: &contract.ProtectState{Committed: model.PointRef{Generation: 1, Seq: 3}}}
	p.keepSalvaged(contract.FailoverOut{})
	require.EqualValues(t, 3, p.st.Committed.Seq)
	p.keepSalvaged(contract.FailoverOut{Salvaged: &model.PointRef{Generation: 2, Seq: 9}})
	require.Equal(t, model.PointRef{Generation: 2, Seq: 9}, p.st.Committed)
	require.NotEmpty(t, p.st.ForceResync)
}
