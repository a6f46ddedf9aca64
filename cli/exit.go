package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"understudy/internal/model"
)

// Exit codes; scripts rely on them.
const (
	exitDone        = 0
	exitFailed      = 1
	exitOutside     = 3
	exitNotFound    = 10
	exitConflict    = 11
	exitUnsafe      = 12
	exitUnreachable = 20
	exitUsage       = 64
	exitInterrupted = 130
)

var meanings = []struct {
	code int
	text string
}{
	{exitDone, "done"},
	{exitFailed, "failed"},
	{exitOutside, "done, but a VM is outside its promise"},
	{exitNotFound, "VM, point or host not found"},
	{exitConflict, "conflict: protected already, a failover runs, an ambiguous name"},
	{exitUnsafe, "refused: unsafe or not supported"},
	{exitUnreachable, "control plane unreachable"},
	{exitUsage, "usage"},
	{exitInterrupted, "interrupted; what was asked for goes on"},
}

// errOutside ends a command that printed its answer and found a VM outside its promise.
var errOutside = errors.New("a VM is outside its promise")

// exitCode is the code for an error of a command.
func exitCode(err error) int {
	var f *model.Failure
	var coder cli.ExitCoder
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, errOutside):
		return exitOutside
	case errors.As(err, &f):
		return codeOf(f)
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.As(err, &coder):
		return exitUsage // urfave's own: no help for an unknown topic
	}
	return exitFailed
}

func codeOf(f *model.Failure) int {
	switch f.Kind {
	case model.InvalidArgument:
		return exitUsage
	case model.NotFound:
		return exitNotFound
	case model.Conflict, model.ForeignCheckpoint, model.JobConflict, model.StaleGeneration:
		return exitConflict
	case model.Unsupported, model.Refused, model.FenceUnconfirmed:
		return exitUnsafe
	case model.Unreachable:
		// 20 says that nothing is known because nobody answered; a host that does not answer is a failure like any other.
		if f.Host != "" {
			return exitFailed
		}
		return exitUnreachable
	case model.CheckpointLost, model.QuiesceFailed, model.NotRunning, model.LinkDown, model.TargetFull, model.ChainBroken,
		model.StagingLost, model.VerifyMismatch, model.Internal:
		return exitFailed
	}
	return exitFailed
}

// exitStatus is the section of a help text; without codes all of them.
func exitStatus(codes ...int) string {
	var b strings.Builder
	b.WriteString("EXIT STATUS\n")
	for _, m := range meanings {
		if len(codes) == 0 || contains(codes, m.code) {
			fmt.Fprintf(&b, "   %-3d %s\n", m.code, m.text)
		}
	}
	return strings.TrimRight(b.String(), "\n")
}

func contains(codes []int, c int) bool {
	for _, x := range codes {
		if x == c {
			return true
		}
	}
	return false
}
