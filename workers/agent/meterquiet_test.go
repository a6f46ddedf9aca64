package agent

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// Whatever is asked, looked at and written in whatever order: an exposure never seems younger than it is.
func TestLookingAtTheKernelNeverMakesAnExposureYounger(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		m := meter{Last: &sample{At: at, Run: 1}}
		bytes, counted, asked := int64(0), int64(0), int64(0) // of the guest, of these by the kernel, and when it was asked last
		oldest, hidden := time.Time{}, time.Time{}            // first write; first one that the kernel did not count, since the last answer
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			at = at.Add(time.Duration(rapid.IntRange(1, 3000).Draw(t, "ms")) * time.Millisecond)
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0, 1, 2:
				bytes, counted = bytes+4096, counted+4096
				if oldest.IsZero() {
					oldest = at
				}
			case 3:
				bytes += 4096
				if oldest.IsZero() {
					oldest, hidden = at, at
				}
			case 4, 5, 6, 7: // a round
				if counted == asked {
					m.quiet(at)
					continue
				}
				asked = counted
				m.feed(sample{At: at, Bytes: bytes, Reqs: bytes / 4096, Run: 1})
			default: // it is asked in any case
				if counted == asked {
					m.doubt()
				}
				asked = counted
				m.feed(sample{At: at, Bytes: bytes, Reqs: bytes / 4096, Run: 1})
			}
			if e := m.exposure(); e != nil && hidden.IsZero() {
				require.False(t, e.After(oldest))
			}
			if m.Since.Bytes == bytes && bytes > 0 {
				require.NotNil(t, m.exposure())
			}
		}
	})
}
