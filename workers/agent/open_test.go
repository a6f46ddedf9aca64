package agent

import (
	"log/slog"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// An agent whose certificate has ended, or whose port is taken, says so and ends; its supervisor starts it again.
func TestAnAgentThatCannotStartSaysWhy(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = taken.Close() }()
	opts := Options{Host: "host-a", StateDir: t.TempDir(), RunDir: t.TempDir(), LinkListen: taken.Addr().String()}
	_, err = open(t.Context(), opts, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "is another agent running?")

	opts.TLSDir = t.TempDir()
	_, err = open(t.Context(), opts, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "ca.crt")
}
