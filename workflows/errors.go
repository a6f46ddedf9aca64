package workflows

import (
	"errors"

	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// surface is what may leave a workflow: the activity's own typed error, taken out of the SDK's envelope and otherwise
// untouched, so that people read one sentence and machines find the type. A timeout has no type; it becomes Unreachable.
// Nothing may wrap the result.
func surface(err error, vm string, host model.HostID) error {
	var app *temporal.ApplicationError
	var timeout *temporal.TimeoutError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &app):
		return app
	case errors.As(err, &timeout):
		return contract.Refuse(model.Unreachable, contract.Detail{VM: vm, Host: host, Try: "understudy hosts"},
			"%s (VM %s on %s)", timeoutWords(timeout), vm, host)
	}
	return err
}

// timeoutWords tells three different things apart.
func timeoutWords(t *temporal.TimeoutError) string {
	switch t.TimeoutType() {
	case enums.TIMEOUT_TYPE_SCHEDULE_TO_START:
		return "the host does not take work: its agent is down or cut off"
	case enums.TIMEOUT_TYPE_HEARTBEAT:
		return "the agent was lost in the middle of its work"
	case enums.TIMEOUT_TYPE_START_TO_CLOSE, enums.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE:
		return "the work took too long"
	case enums.TIMEOUT_TYPE_UNSPECIFIED:
	}
	return "the work timed out"
}

// kindOf is the failure's kind; a timeout is Unreachable, whatever has no type Internal.
func kindOf(err error) model.Kind {
	var timeout *temporal.TimeoutError
	if t := contract.ErrorType(err); t != "" {
		return model.Kind(t)
	}
	if errors.As(err, &timeout) {
		return model.Unreachable
	}
	return model.Internal
}

// unclear says that the work may have been done although it failed: nobody answered, or nobody knows why not.
func unclear(err error) bool {
	switch kindOf(err) {
	case model.Unreachable, model.Internal, model.LinkDown:
		return true
	default:
		return temporal.IsCanceledError(err)
	}
}

// sentence is an error for people, without the SDK's envelope.
func sentence(err error) string {
	var app *temporal.ApplicationError
	var timeout *temporal.TimeoutError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &app):
		return app.Message()
	case errors.As(err, &timeout):
		return timeoutWords(timeout)
	}
	return err.Error()
}

// advice is the next command to try that came with an error.
func advice(err error) string {
	var app *temporal.ApplicationError
	var d contract.Detail
	if errors.As(err, &app) && app.HasDetails() && app.Details(&d) == nil {
		return d.Try
	}
	return ""
}
