package agent

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

func TestAStopThatAWatchdogCausedIsACrashInWhateverOrderItIsTold(t *testing.T) {
	now := time.Now()
	fired := model.Event{Kind: model.EventWatchdog, Action: model.ActionPoweroff, At: now}
	stopped := model.Event{Kind: model.EventStopped, Detail: "shutdown", At: now.Add(time.Second)}

	e := &entry{Runs: true}
	require.Equal(t, model.EventWatchdog, e.byWatchdog(fired).Kind)
	require.Equal(t, model.EventCrashed, e.byWatchdog(stopped).Kind)
	require.Equal(t, model.EventStopped, e.byWatchdog(stopped).Kind, "the next stop is one of somebody")

	e = &entry{Runs: true, down: true}
	require.Equal(t, model.EventCrashed, e.byWatchdog(fired).Kind)

	e = &entry{Runs: true}
	e.byWatchdog(fired)
	late := stopped
	late.At = now.Add(time.Hour)
	require.Equal(t, model.EventStopped, e.byWatchdog(late).Kind)
}

func TestWhatHappenedWithoutAnEventIsToldByItsState(t *testing.T) {
	e := &entry{Runs: true}
	for _, c := range []struct {
		state  hypervisor.State
		reason string
		kind   model.EventKind
	}{
		{hypervisor.Running, "booted", model.EventStarted},
		{hypervisor.Paused, "user", model.EventStarted},
		{hypervisor.Paused, "I/O error", model.EventIOError},
		{hypervisor.Paused, "watchdog", model.EventWatchdog},
		{hypervisor.Crashed, "panicked", model.EventPanicked},
		{hypervisor.ShutOff, "crashed", model.EventCrashed},
		{hypervisor.ShutOff, "shutdown", model.EventStopped},
		{hypervisor.ShutOff, "unknown", model.EventVanished},
	} {
		ev, told := e.differs(hypervisor.Domain{State: c.state, Reason: c.reason}, true)
		require.True(t, told, c)
		require.Equal(t, c.kind, ev.Kind, c)
	}
}
