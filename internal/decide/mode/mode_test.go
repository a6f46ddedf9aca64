package mode

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"understudy/internal/model"
)

func TestPhaseIsTheMostUrgentTruth(t *testing.T) {
	good := Facts{StandbyReady: true, Seeded: true, RPO: 10 * time.Second}
	for name, c := range map[string]struct {
		change func(*Facts)
		want   model.Phase
	}{
		"all is well":                 {func(*Facts) {}, model.PhaseProtected},
		"the first copy":              {func(f *Facts) { f.Seeded = false; f.Exposure = time.Hour }, model.PhaseSeeding},
		"late":                        {func(f *Facts) { f.Exposure = 11 * time.Second }, model.PhaseDegraded},
		"exactly on time is not late": {func(f *Facts) { f.Exposure = 10 * time.Second }, model.PhaseProtected},
		"failing":                     {func(f *Facts) { f.Failures = 1 }, model.PhaseDegraded},
		"a seed that fails":           {func(f *Facts) { f.Failures = 1; f.Seeded = false }, model.PhaseDegraded},
		"no standby":                  {func(f *Facts) { f.StandbyReady = false }, model.PhaseDegraded},
		"off":                         {func(f *Facts) { f.Off = true; f.Failures = 3 }, model.PhaseSuspended},
		"paused":                      {func(f *Facts) { f.Paused = true; f.StandbyReady = false }, model.PhaseSuspended},
		"a person is needed":          {func(f *Facts) { f.Failed = true; f.Paused = true }, model.PhaseFailed},
		"failing over":                {func(f *Facts) { f.FailingOver = true; f.Failed = true }, model.PhaseFailingOver},
	} {
		t.Run(name, func(t *testing.T) {
			f := good
			c.change(&f)
			require.Equal(t, c.want, Phase(f))
		})
	}
}

func TestLevels(t *testing.T) {
	rpo := 20 * time.Second
	for age, want := range map[time.Duration]Level{
		0: Met, 15 * time.Second: Met, 15*time.Second + 1: AtRisk, 20 * time.Second: AtRisk, 20*time.Second + 1: Violated,
		40 * time.Second: Violated, 40*time.Second + 1: Twice, time.Hour: Twice,
	} {
		require.Equal(t, want, LevelOf(age, rpo), "%s", age)
	}
}

// The next threshold is where the level changes, and nowhere before.
func TestLawThresholdsMeetLevels(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rpo := time.Duration(rapid.Int64Range(int64(model.MinRPO), int64(model.MaxRPO)).Draw(t, "rpo"))
		age := time.Duration(rapid.Int64Range(0, 3*int64(rpo)).Draw(t, "age"))
		at, rises := NextThreshold(age, rpo)
		if !rises {
			require.Equal(t, Twice, LevelOf(age, rpo))
			return
		}
		require.GreaterOrEqual(t, at, age)
		require.Equal(t, LevelOf(age, rpo), LevelOf(at, rpo))
		require.Greater(t, LevelOf(at+1, rpo), LevelOf(age, rpo))
	})
}

func TestMayFailOver(t *testing.T) {
	require.Empty(t, MayFailOver(model.FailoverAuto, true, ""))
	require.Contains(t, MayFailOver(model.FailoverManual, true, ""), "person")
	require.Contains(t, MayFailOver(model.FailoverAuto, false, ""), "no verified point")
	require.Contains(t, MayFailOver(model.FailoverAuto, true, "stuck"), "stuck")
}

func TestReactionToEachKind(t *testing.T) {
	for kind, want := range map[model.Kind]Reaction{
		model.CheckpointLost: Resync, model.VerifyMismatch: Resync, model.StagingLost: Retry, model.ChainBroken: Reseed,
		model.TargetFull: Prune, model.QuiesceFailed: NoFreeze, model.NotRunning: Suspend, model.StaleGeneration: Stop,
		model.ForeignCheckpoint: Ask, model.Unsupported: Ask, model.Refused: Ask, model.NotFound: Ask, model.InvalidArgument: Ask,
		model.Conflict: Ask, model.FenceUnconfirmed: Ask, model.JobConflict: Retry, model.LinkDown: Retry, model.Unreachable: Retry,
		model.Internal: Retry, "": Retry, "SomethingNew": Retry,
	} {
		require.Equal(t, want, React(kind), "%q", kind)
	}
}

// What is planned is no risk; behind the plan, and beyond the target, all is as without one.
func TestLawAPlanPutsOnlyTheFirstAlertOff(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rpo := time.Duration(rapid.Int64Range(int64(model.MinRPO), int64(model.MaxRPO)).Draw(t, "rpo"))
		age := time.Duration(rapid.Int64Range(0, 3*int64(rpo)).Draw(t, "age"))
		planned := time.Duration(rapid.Int64Range(0, 2*int64(rpo)).Draw(t, "planned"))
		level := LevelOnPlan(age, rpo, planned)
		if LevelOf(age, rpo) != AtRisk || age > planned {
			require.Equal(t, LevelOf(age, rpo), level)
		} else {
			require.Equal(t, Met, level)
		}
		at, rises := NextThresholdOnPlan(age, rpo, planned)
		if !rises {
			require.Equal(t, Twice, level)
			return
		}
		require.GreaterOrEqual(t, at, age)
		require.Equal(t, level, LevelOnPlan(at, rpo, planned))
		require.Greater(t, LevelOnPlan(at+1, rpo, planned), level)
	})
}

func TestEachEventHasOneDeed(t *testing.T) {
	for _, c := range []struct {
		e    model.Event
		deed Deed
		why  string
	}{
		{model.Event{Kind: model.EventCrashed}, DeedRecover, "QEMU died"},
		{model.Event{Kind: model.EventVanished}, DeedRecover, "after a reboot of the host"},
		{model.Event{Kind: model.EventPanicked, Action: "destroy"}, DeedRecover, "a panic is as good as a crash"},
		{model.Event{Kind: model.EventPanicked}, DeedRecover, "nobody knows what libvirt does"},
		{model.Event{Kind: model.EventPanicked, Action: "preserve"}, DeedRecover, "it is kept for a look, and does not serve"},
		{model.Event{Kind: model.EventPanicked, Action: model.ActionRestart}, DeedNote, "libvirt restarts it"},
		{model.Event{Kind: model.EventIOError, Action: model.ActionPause}, DeedRecover, "EIO, and the guest stands"},
		{model.Event{Kind: model.EventIOError, Action: model.ActionPause, Reason: model.ReasonNoSpace}, DeedStorage, "a full disk needs room"},
		{model.Event{Kind: model.EventIOError, Action: model.ActionPause, Reason: "unknown"}, DeedStorage, "the cause was not told"},
		{model.Event{Kind: model.EventIOError, Action: model.ActionReport}, DeedStorage, "the guest was told and runs"},
		{model.Event{Kind: model.EventWatchdog, Action: model.ActionPause}, DeedPaused, ""},
		{model.Event{Kind: model.EventWatchdog, Action: "reset"}, DeedNote, "it boots again by itself"},
		{model.Event{Kind: model.EventStopped}, DeedOff, ""},
		{model.Event{Kind: model.EventResumed}, DeedBack, ""},
	} {
		require.Equal(t, c.deed, OnEvent(c.e), "%v: %s", c.e, c.why)
	}
}
