package activities

import (
	"context"
	"errors"

	"go.temporal.io/sdk/temporal"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// retryable kinds may succeed when tried again without anybody doing anything.
func retryable(k model.Kind) bool {
	switch k {
	case model.JobConflict, model.LinkDown, model.Unreachable, model.Internal:
		return true
	case model.InvalidArgument, model.NotFound, model.Conflict, model.Unsupported, model.Refused, model.CheckpointLost,
		model.ForeignCheckpoint, model.QuiesceFailed, model.NotRunning, model.TargetFull, model.ChainBroken,
		model.StagingLost, model.VerifyMismatch, model.StaleGeneration, model.FenceUnconfirmed:
		return false
	}
	return true
}

// toWire is the only place where a domain error becomes a Temporal error. It is applied at the outermost line of an
// activity and nothing may wrap its result: a wrapped non-retryable error is retried, and the workflow no longer sees
// the type it switches on. What the work had achieved before it failed may go with it.
func toWire(err error, achieved ...any) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) {
		return temporal.NewCanceledError()
	}
	kind := model.KindOf(err)
	opts := temporal.ApplicationErrorOptions{NonRetryable: !retryable(kind) || errors.As(err, new(final))}
	var f *model.Failure
	if errors.As(err, &f) {
		opts.NextRetryDelay = f.RetryAfter
		opts.Details = []any{contract.Detail{VM: f.VM, Host: f.Host, Try: f.Try}}
	}
	if len(achieved) > 0 {
		if f == nil {
			opts.Details = []any{contract.Detail{}}
		}
		opts.Details = append(opts.Details, achieved...)
	}
	return temporal.NewApplicationErrorWithOptions(err.Error(), string(kind), opts)
}
