package starter

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"pgregory.net/rapid"

	"understudy/internal/contract"
	"understudy/internal/model"
)

func TestLawAFailureSurvivesTheWire(t *testing.T) {
	words := rapid.StringMatching(`[a-z]+( [a-z]+){0,4}`)
	rapid.Check(t, func(t *rapid.T) {
		f := model.Fail(model.Refused, nil, "%s", words.Draw(t, "what"))
		f.VM = rapid.SampledFrom([]string{"", "db1"}).Draw(t, "vm")
		f.Host = rapid.SampledFrom([]model.HostID{"", "host-a"}).Draw(t, "host")
		f.Try = rapid.SampledFrom([]string{"", "understudy hosts"}).Draw(t, "try")
		if cause := words.Draw(t, "cause"); f.VM != "" && rapid.Bool().Draw(t, "has cause") {
			f.Err = errors.New(cause)
		}
		var app *temporal.ApplicationError
		require.ErrorAs(t, contract.RefuseFailure(f), &app)
		got := fromWire(app, subject{})
		require.Equal(t, f.Error(), got.Error())
		require.Equal(t, []any{f.Kind, f.What, f.VM, f.Host, f.Try}, []any{got.Kind, got.What, got.VM, got.Host, got.Try})
	})
}

func TestEveryErrorOfTheSDKBecomesAKind(t *testing.T) {
	c := &Client{address: "192.0.2.1:7233"}
	about := aboutVM(model.VMRef{Name: "db1"})
	for _, x := range []struct {
		err  error
		kind model.Kind
		says string
	}{
		{contract.Refuse(model.TargetFull, contract.Detail{VM: "db1", Host: "host-b"}, "no room"), model.TargetFull, "no room"},
		{fmt.Errorf("failed workflow start: %w", serviceerror.NewWorkflowExecutionAlreadyStarted("", "", "")), model.Conflict, "already protected"},
		{serviceerror.NewNotFound("workflow not found"), model.NotFound, "not protected"},
		{serviceerror.NewNamespaceNotFound("understudy"), model.Unreachable, "192.0.2.1:7233"},
		{serviceerror.NewUnavailable("gone"), model.Unreachable, "192.0.2.1:7233"},
		{serviceerror.NewDeadlineExceeded("late"), model.Unreachable, "no server works on it"},
		{context.DeadlineExceeded, model.Unreachable, "no server works on it"},
		{client.NewWorkflowUpdateServiceTimeoutOrCanceledError(context.DeadlineExceeded), model.Unreachable, "no server works on it"},
		{errors.New("anything"), model.Internal, "anything"},
	} {
		got := c.failure(t.Context(), x.err, about)
		require.Equal(t, x.kind, model.KindOf(got), "%v", x.err)
		require.ErrorContains(t, got, x.says)
	}
}

func TestTheCallersOwnEndIsNotAFailure(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	got := (&Client{}).failure(ctx, serviceerror.NewCanceled("x"), subject{})
	require.ErrorIs(t, got, context.Canceled)
}
