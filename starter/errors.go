package starter

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// failure translates what the SDK returns into the words of the model.
func (c *Client) failure(ctx context.Context, err error, about subject) error {
	if err == nil {
		return nil
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err() // the caller ended it; whatever was asked for may go on
	}
	var (
		app         *temporal.ApplicationError
		notFound    *serviceerror.NotFound
		noNamespace *serviceerror.NamespaceNotFound
		started     *serviceerror.WorkflowExecutionAlreadyStarted
		unavailable *serviceerror.Unavailable
		deadline    *serviceerror.DeadlineExceeded
		notReady    *serviceerror.WorkflowNotReady
		denied      *serviceerror.PermissionDenied
		timeout     *client.WorkflowUpdateServiceTimeoutOrCanceledError
		f           *model.Failure
	)
	switch {
	case errors.As(err, &app):
		f = fromWire(app, about)
	case errors.As(err, &denied):
		f = model.Fail(model.Refused, nil, "the certificate in use may not do this").WithVM(about.vm).WithHost(about.host).
			WithTry("understudy ca show FOLDER: an operator's is needed (docs/SECURITY.md)")
	case errors.As(err, &noNamespace):
		f = model.Fail(model.Unreachable, nil, "Temporal at %s has no such namespace: no server has prepared it (%s)", c.address, noNamespace.Message).
			WithTry("understudy server, or --namespace NAME")
	case errors.As(err, &notFound):
		f = model.Fail(model.NotFound, nil, "%s", about.gone).WithTry(about.try).WithVM(about.vm).WithHost(about.host)
	case errors.As(err, &started):
		f = model.Fail(model.Conflict, nil, "it is already protected").WithVM(about.vm).WithHost(about.host).
			WithTry("understudy status " + about.vm)
	case errors.As(err, &notReady):
		f = model.Fail(model.Unreachable, err, "the workflow cannot answer now").WithVM(about.vm).WithTry("understudy server: look at its log")
	case errors.As(err, &timeout), errors.As(err, &deadline), errors.Is(err, context.DeadlineExceeded):
		f = model.Fail(model.Unreachable, nil, "the control plane does not answer: Temporal at %s is up or was a moment ago, but no server works on it", c.address).
			WithTry("understudy server on the control host")
	case errors.As(err, &unavailable):
		f = model.Fail(model.Unreachable, err, "Temporal at %s does not answer", c.address).WithTry("understudy server on the control host")
	default:
		f = model.Fail(model.Internal, err, "the control plane refused the request").WithVM(about.vm).WithHost(about.host)
	}
	return f
}

// fromWire rebuilds the failure that an activity or workflow made. Its message is the whole sentence of
// model.Failure.Error, so that the Web UI shows it; here it is taken apart again to print it over several lines.
func fromWire(app *temporal.ApplicationError, about subject) *model.Failure {
	var d contract.Detail
	if app.HasDetails() {
		_ = app.Details(&d) // foreign details: the message alone has to do
	}
	kind := model.Kind(app.Type())
	if kind == "" {
		kind = model.Internal
	}
	f := &model.Failure{Kind: kind, VM: d.VM, Host: d.Host, Try: d.Try}
	what, why := split(app.Message(), d)
	f.What = what
	if why != "" {
		f.Err = errors.New(why)
	}
	if f.VM == "" {
		f.VM = about.vm
	}
	return f
}

// split is the reverse of model.Failure.Error, as far as the detail allows it.
func split(message string, d contract.Detail) (what, why string) {
	if d.Try != "" {
		message = strings.TrimSuffix(message, ". Try: "+d.Try)
	}
	var mark string
	switch {
	case d.VM != "" && d.Host != "":
		mark = fmt.Sprintf(" (VM %s on %s)", d.VM, d.Host)
	case d.VM != "":
		mark = fmt.Sprintf(" (VM %s)", d.VM)
	case d.Host != "":
		mark = fmt.Sprintf(" (host %s)", d.Host)
	default:
		return message, ""
	}
	before, after, found := strings.Cut(message, mark)
	if !found {
		return message, ""
	}
	if cause, ok := strings.CutPrefix(after, ": "); ok {
		return before, cause
	}
	return before + after, ""
}
