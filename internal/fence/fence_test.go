package fence

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"understudy/internal/model"
)

func script(t *testing.T, body string) []string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fence")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o700))
	return []string{path}
}

func TestOnlyAConfirmedOffIsEvidence(t *testing.T) {
	cases := []struct {
		name, body string
		kind       model.Kind
	}{
		{"off and confirmed", `echo off`, ""},
		{"the order fails", `[ "$1" = off ] && exit 1; echo off`, model.FenceUnconfirmed},
		{"status still says on", `echo on`, model.FenceUnconfirmed},
		{"status says nothing", `true`, model.FenceUnconfirmed},
		{"status fails", `[ "$1" = status ] && exit 3; true`, model.FenceUnconfirmed},
		{"the command hangs", `sleep 60`, model.FenceUnconfirmed},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			ev, err := Command{Argv: script(t, c.body), Timeout: 300 * time.Millisecond}.Off(context.Background(), "host-a", 4, time.Now)
			if c.kind == "" {
				require.NoError(t, err)
				require.Equal(t, model.EvidenceFenced, ev.Kind)
				require.Equal(t, model.Generation(4), ev.Generation)
				return
			}
			require.Equal(t, c.kind, model.KindOf(err))
		})
	}
}

func TestWithoutACommandThereIsNoEvidence(t *testing.T) {
	_, err := Command{}.Off(context.Background(), "host-a", 1, time.Now)
	require.Equal(t, model.FenceUnconfirmed, model.KindOf(err))
}

func TestAHostNameCannotBecomeAnOption(t *testing.T) {
	_, err := Command{Argv: script(t, "echo off")}.Off(context.Background(), "--help", 1, time.Now)
	require.Equal(t, model.InvalidArgument, model.KindOf(err))
}
