// Package starter is the typed client of the workflows. The CLI and the agents reach a protection only through it. Every
// error it returns is a *model.Failure with the kind the workflow or activity gave it, except that a context ended by the
// caller stays context.Canceled.
package starter

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	"understudy/internal/contract"
	"understudy/internal/model"
)

const (
	dialTimeout = 4 * time.Second
	// A query or the acceptance of an update takes milliseconds when a worker is up; on a busy machine a replay may come
	// first. Beyond this nobody is there to answer.
	askTimeout = 8 * time.Second
	// parallel bounds how many workflows are asked at once.
	parallel = 8
)

// Client speaks to the workflows.
type Client struct {
	t       client.Client
	address string // for error messages
	owned   bool

	mu      sync.Mutex
	touched map[string]bool // workflow ids, until Settle
}

// New uses an existing connection, which stays the caller's.
func New(t client.Client) *Client { return &Client{t: t, address: "the given address"} }

// Dial connects and fails within a few seconds when nobody answers. secure is nil where Temporal speaks without TLS.
func Dial(ctx context.Context, address, namespace string, secure *tls.Config) (*Client, error) {
	dialCtx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	t, err := client.DialContext(dialCtx, client.Options{
		HostPort: address, Namespace: namespace, Logger: slog.New(slog.DiscardHandler),
		ConnectionOptions: client.ConnectionOptions{GetSystemInfoTimeout: dialTimeout, TLS: secure},
	})
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	var denied *serviceerror.PermissionDenied
	if errors.As(err, &denied) {
		return nil, model.Fail(model.Refused, nil, "Temporal at %s does not take this certificate", address).WithTry("understudy ca show FOLDER")
	}
	if err != nil {
		return nil, model.Fail(model.Unreachable, errors.Unwrap(err), "Temporal at %s does not answer", address).
			WithTry("understudy server on the control host, or --temporal-address HOST:PORT")
	}
	return &Client{t: t, address: address, owned: true}, nil
}

// Close ends a connection made by Dial.
func (c *Client) Close() {
	if c.owned {
		c.t.Close()
	}
}

// subject is whom a request is about, for errors.
type subject struct {
	vm   string
	host model.HostID
	gone string // what NotFound means, in words
	try  string // and what to do then
}

func ask[Out any](ctx context.Context, c *Client, q contract.Query[Out], id string, about subject) (Out, error) {
	var out Out
	askCtx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	// A closed run would answer too, with the state of the day it ended.
	got, err := c.t.QueryWorkflowWithOptions(askCtx, &client.QueryWorkflowWithOptionsRequest{
		WorkflowID: id, QueryType: q.Name, QueryRejectCondition: enumspb.QUERY_REJECT_CONDITION_NOT_OPEN,
	})
	if err != nil {
		return out, c.failure(ctx, err, about)
	}
	if got.QueryRejected != nil {
		return out, model.Fail(model.NotFound, nil, "%s", about.gone).WithVM(about.vm).WithHost(about.host).WithTry(about.try)
	}
	if err := got.QueryResult.Get(&out); err != nil {
		return out, model.Fail(model.Internal, err, "the answer to %s cannot be read", q.Name).WithVM(about.vm).WithHost(about.host)
	}
	return out, nil
}

// tell sends an update and waits for its answer: a few seconds until it is accepted, then as long as the caller does.
func tell[In, Out any](ctx context.Context, c *Client, u contract.Update[In, Out], id string, in In, about subject) (Out, error) {
	var out Out
	c.touch(id)
	acceptCtx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	h, err := c.t.UpdateWorkflow(acceptCtx, client.UpdateWorkflowOptions{
		WorkflowID: id, UpdateName: u.Name, Args: []any{in}, WaitForStage: client.WorkflowUpdateStageAccepted,
	})
	if err == nil {
		err = h.Get(ctx, &out)
	}
	return out, c.failure(ctx, err, about)
}

// SignalTo sends a signal; it does not wait for anybody to handle it.
func SignalTo[T any](ctx context.Context, c *Client, s contract.Signal[T], workflowID string, v T) error {
	sendCtx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	err := c.t.SignalWorkflow(sendCtx, workflowID, "", s.Name, v)
	return c.failure(ctx, err, subject{gone: fmt.Sprintf("no workflow %s takes the signal %s", workflowID, s.Name)})
}

func decode(p *payload, v any) error { return converter.GetDefaultDataConverter().FromPayload(p, v) }
