package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The program is copied to hosts and started for each question: it stays small and starts at once (docs/PERFORMANCE.md).
func TestTheProgramIsSmallAndStartsAtOnce(t *testing.T) {
	binary := filepath.Join("..", "..", "build", "understudy")
	info, err := os.Stat(binary)
	if err != nil {
		t.Skip("needs build/understudy: make build")
	}
	require.Less(t, info.Size(), int64(40_000_000))
	var took []time.Duration
	for range 20 {
		began := time.Now()
		require.NoError(t, exec.CommandContext(t.Context(), binary, "version").Run())
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	t.Logf("%.1f MB, version: best %s, median %s", float64(info.Size())/1e6, took[0], took[len(took)/2])
	require.Less(t, took[0], 500*time.Millisecond, "50 ms on a quiet machine; this one may be busy")
}
