package contract

import (
	"context"
	"errors"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"
)

// Activity is a typed handle: the workflow executes it and the worker registers it under one name, so that the compiler
// checks both ends although workflows never import the code that does the work.
type Activity[In, Out any] struct {
	Name    string
	Options workflow.ActivityOptions // without the queue
}

// Future is the typed result of Start.
type Future[Out any] struct{ f workflow.Future }

// Raw returns the future for use in a selector.
func (f Future[Out]) Raw() workflow.Future { return f.f }

// Get waits for the result.
func (f Future[Out]) Get(ctx workflow.Context) (Out, error) {
	var out Out
	err := f.f.Get(ctx, &out)
	return out, err
}

// Start schedules the activity on a task queue. summary is shown in the Temporal Web UI beside the event; it may be empty.
func (a Activity[In, Out]) Start(ctx workflow.Context, queue, summary string, in In) Future[Out] {
	o := a.Options
	o.TaskQueue = queue
	o.Summary = summary
	return Future[Out]{workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, o), a.Name, in)}
}

// Execute schedules the activity and waits for it.
func (a Activity[In, Out]) Execute(ctx workflow.Context, queue, summary string, in In) (Out, error) {
	return a.Start(ctx, queue, summary, in).Get(ctx)
}

// Registry is what a Temporal worker offers for registering activities.
type Registry interface {
	RegisterActivityWithOptions(a any, options activity.RegisterOptions)
}

// Register binds the implementation.
func (a Activity[In, Out]) Register(r Registry, impl func(context.Context, In) (Out, error)) {
	r.RegisterActivityWithOptions(impl, activity.RegisterOptions{Name: a.Name})
}

// Signal is a typed signal.
type Signal[T any] struct{ Name string }

// Channel returns the channel to receive from.
func (s Signal[T]) Channel(ctx workflow.Context) workflow.ReceiveChannel {
	return workflow.GetSignalChannel(ctx, s.Name)
}

// SendExternal signals another workflow from a workflow.
func (s Signal[T]) SendExternal(ctx workflow.Context, workflowID string, v T) workflow.Future {
	return workflow.SignalExternalWorkflow(ctx, workflowID, "", s.Name, v)
}

// Update is a typed update: validated before it is accepted, and answered.
type Update[In, Out any] struct{ Name string }

// Handle registers handler and validator; validator may be nil.
func (u Update[In, Out]) Handle(ctx workflow.Context, handler func(workflow.Context, In) (Out, error), validator func(In) error) error {
	opts := workflow.UpdateHandlerOptions{}
	if validator != nil {
		opts.Validator = validator
	}
	return workflow.SetUpdateHandlerWithOptions(ctx, u.Name, handler, opts)
}

// Query is a typed query without arguments.
type Query[Out any] struct{ Name string }

// Handle registers the handler, which must not change state.
func (q Query[Out]) Handle(ctx workflow.Context, handler func() (Out, error)) error {
	return workflow.SetQueryHandler(ctx, q.Name, handler)
}

// None is the empty input or output.
type None struct{}

// ErrorType returns the type of the application error in err's chain, "" when there is none.
func ErrorType(err error) string {
	var app *temporal.ApplicationError
	if errors.As(err, &app) {
		return app.Type()
	}
	return ""
}

func seconds(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }
