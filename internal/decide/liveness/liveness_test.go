package liveness

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestJudge(t *testing.T) {
	for name, c := range map[string]struct {
		e    Evidence
		want Verdict
		host bool
	}{
		"its own agent says the VM is gone":               {Evidence{VMGone: "crashed"}, Dead, false},
		"monitoring says so, the host is heard":           {Evidence{Reported: "prometheus: down"}, Dead, false},
		"monitoring says so and the host is silent":       {Evidence{Reported: "prometheus: down", HeartbeatLost: true}, Dead, true},
		"the host is heard":                               {Evidence{}, Alive, false},
		"only the control plane cannot hear it":           {Evidence{HeartbeatLost: true, WitnessAsked: true, WitnessAlive: true}, Alive, false},
		"two cannot hear it":                              {Evidence{HeartbeatLost: true, WitnessAsked: true}, Dead, true},
		"the control plane hears nobody: maybe it is cut": {Evidence{HeartbeatLost: true}, Unknown, false},
	} {
		t.Run(name, func(t *testing.T) {
			j := Judge(c.e)
			require.Equal(t, c.want, j.Verdict)
			require.Equal(t, c.host, j.Host)
			require.NotEmpty(t, j.Reason)
		})
	}
}

// One lost heartbeat alone never kills; more evidence of death never makes it less dead.
func TestLawNoSingleDetectorIsAVerdict(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := Evidence{
			VMGone: rapid.SampledFrom([]string{"", "crashed"}).Draw(t, "gone"), Reported: rapid.SampledFrom([]string{"", "x"}).Draw(t, "reported"),
			HeartbeatLost: rapid.Bool().Draw(t, "lost"), WitnessAsked: rapid.Bool().Draw(t, "asked"), WitnessAlive: rapid.Bool().Draw(t, "alive"),
		}
		j := Judge(e)
		if e.VMGone == "" && e.Reported == "" && j.Verdict == Dead {
			require.True(t, e.HeartbeatLost && e.WitnessAsked && !e.WitnessAlive)
		}
		require.False(t, j.Host && !e.HeartbeatLost, "a host that is heard is not thought dead")
	})
}

func TestASlowHostIsToldFromADeadOne(t *testing.T) {
	late := Evidence{HeartbeatLost: true, WitnessAsked: true, WitnessAlive: true, WitnessTook: 2 * time.Second, Load: "load 31.0 on 2 CPUs"}
	j := Judge(late)
	require.Equal(t, Alive, j.Verdict)
	require.True(t, j.Slow)
	require.Contains(t, j.Reason, "slow, not dead")
	require.Contains(t, j.Reason, "load 31.0")
	late.WitnessTook = 10 * time.Millisecond
	require.False(t, Judge(late).Slow, "cut off from the control plane only")
	late.WitnessAlive = false
	require.Equal(t, Dead, Judge(late).Verdict)
}
