package agent

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTransfersShareTheirAgentsCPU(t *testing.T) {
	used := 10 * time.Second // before anything began
	e := effort{used: func() time.Duration { return used }}
	a, b := &share{}, &share{}
	e.turn(a, true)
	used += 4 * time.Second
	e.turn(b, true)
	used += 2 * time.Second
	e.turn(a, false)
	used += 3 * time.Second
	e.turn(b, false)
	used += time.Hour
	e.turn(a, true)
	require.Equal(t, 5*time.Second, a.cpu)
	require.Equal(t, 4*time.Second, b.cpu)
	require.Positive(t, processCPU())
}
