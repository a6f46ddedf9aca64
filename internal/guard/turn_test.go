package guard

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The wait of every takeover follows from the longest stop, so a stop counts from its own order.
func TestACopyThatStoodForLongBeforeItWasKilledIsNoSlowStop(t *testing.T) {
	c := &copyOf{}
	c.turn(mustFreeze, "its lease ran out", 100)
	require.EqualValues(t, 100, c.since)
	c.turn(mustDie, "the freeze was not proved", 200)
	require.EqualValues(t, 100, c.since, "nothing stands yet: the time runs on")
	c.turn(mustFreeze, "its lease ran out", 300)
	c.proved = true
	c.turn(mustDie, "this host gave it up", 5000)
	require.EqualValues(t, 5000, c.since)
}
