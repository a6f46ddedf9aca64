package activities

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"understudy/internal/contract"
	"understudy/internal/model"
)

func TestAWrappedFailureKeepsItsTypeAndRetryability(t *testing.T) {
	inner := model.Fail(model.StaleGeneration, nil, "generation 1 is refused").WithVM("db1").WithTry("understudy status db1")
	err := toWire(fmt.Errorf("replicate: %w", inner))

	var app *temporal.ApplicationError
	require.True(t, errors.As(err, &app))
	require.Equal(t, "StaleGeneration", app.Type())
	require.True(t, app.NonRetryable())
	var d contract.Detail
	require.NoError(t, app.Details(&d))
	require.Equal(t, "understudy status db1", d.Try)
}

func TestWhatMayPassIsRetriedAfterTheDelayItAsksFor(t *testing.T) {
	f := model.Fail(model.JobConflict, nil, "another job")
	f.RetryAfter = 40 * time.Second
	var app *temporal.ApplicationError
	require.True(t, errors.As(toWire(f), &app))
	require.False(t, app.NonRetryable())
	require.Equal(t, 40*time.Second, app.NextRetryDelay())
}

func TestUnknownErrorsAndCancellation(t *testing.T) {
	require.NoError(t, toWire(nil))
	var app *temporal.ApplicationError
	require.True(t, errors.As(toWire(errors.New("boom")), &app))
	require.Equal(t, "Internal", app.Type())
	var canceled *temporal.CanceledError
	require.True(t, errors.As(toWire(fmt.Errorf("send: %w", context.Canceled)), &canceled))
}
