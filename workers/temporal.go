// Package workers holds what both compositions (control and agent) need to speak to Temporal.
package workers

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/protobuf/types/known/durationpb"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// Retention of closed runs in our namespace. Runs end by continue-as-new, so this is what makes space reclaimable.
const Retention = 6 * time.Hour

// A host that was cut off is to be heard soon after it can be: what waits for its answers is a failover. Temporal's servers take a
// ping every ten seconds; the SDK's own limits are 30 s, 15 s and 20 s for a try to connect.
const (
	pingEvery  = 10 * time.Second
	pingAnswer = 5 * time.Second
	dialLimit  = 3 * time.Second
)

func redial() backoff.Config {
	return backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second}
}

// DialPatiently connects to Temporal and goes on trying until ctx ends: agents and servers start in any order, also
// after a power loss of the whole site. secure is nil where Temporal speaks without TLS.
func DialPatiently(ctx context.Context, address, namespace string, log *slog.Logger, secure *tls.Config) (client.Client, error) {
	wait := 250 * time.Millisecond
	for {
		dialCtx, cancel := context.WithTimeout(ctx, 5*time.Second)
		c, err := client.DialContext(dialCtx, client.Options{
			HostPort: address, Namespace: namespace, Logger: quiet{log},
			ConnectionOptions: client.ConnectionOptions{
				TLS: secure, KeepAliveTime: pingEvery, KeepAliveTimeout: pingAnswer,
				DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{Backoff: redial(), MinConnectTimeout: dialLimit})},
			},
		})
		cancel()
		if err == nil {
			return c, nil
		}
		if ctx.Err() != nil {
			return nil, model.Fail(model.Unreachable, err, "Temporal at %s does not answer", address)
		}
		log.Warn("temporal_unreachable", "address", address, "error", err, "again_in", wait.String())
		select {
		case <-ctx.Done():
			return nil, model.Fail(model.Unreachable, err, "Temporal at %s does not answer", address)
		case <-time.After(wait):
		}
		wait = min(2*wait, 3*time.Second)
	}
}

// SearchAttributes are ours, with their types.
func SearchAttributes() map[string]enumspb.IndexedValueType {
	return map[string]enumspb.IndexedValueType{
		contract.AttrVM:         enumspb.INDEXED_VALUE_TYPE_KEYWORD,
		contract.AttrPrimary:    enumspb.INDEXED_VALUE_TYPE_KEYWORD,
		contract.AttrStandby:    enumspb.INDEXED_VALUE_TYPE_KEYWORD,
		contract.AttrPhase:      enumspb.INDEXED_VALUE_TYPE_KEYWORD,
		contract.AttrGeneration: enumspb.INDEXED_VALUE_TYPE_INT,
	}
}

// Prepare makes the namespace and the search attributes in a cluster that lacks them. Repeating it changes nothing.
func Prepare(ctx context.Context, c client.Client, namespace string) error {
	_, err := c.WorkflowService().RegisterNamespace(ctx, &workflowservice.RegisterNamespaceRequest{
		Namespace: namespace, WorkflowExecutionRetentionPeriod: durationpb.New(Retention),
		Description: "Understudy: protections of libvirt VMs",
	})
	var exists *serviceerror.NamespaceAlreadyExists
	if err != nil && !errors.As(err, &exists) {
		return fmt.Errorf("register namespace %s: %w", namespace, err)
	}
	// A new namespace becomes visible to the frontends after its cache refreshes.
	for {
		have, err := c.OperatorService().ListSearchAttributes(ctx, &operatorservice.ListSearchAttributesRequest{Namespace: namespace})
		if err == nil {
			return addMissing(ctx, c, namespace, have.GetCustomAttributes())
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("list search attributes of namespace %s: %w", namespace, err)
		case <-time.After(250 * time.Millisecond):
		}
	}
}

func addMissing(ctx context.Context, c client.Client, namespace string, have map[string]enumspb.IndexedValueType) error {
	missing := map[string]enumspb.IndexedValueType{}
	for name, typ := range SearchAttributes() {
		if _, ok := have[name]; !ok {
			missing[name] = typ
		}
	}
	if len(missing) == 0 {
		return nil
	}
	_, err := c.OperatorService().AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{Namespace: namespace, SearchAttributes: missing})
	var exists *serviceerror.AlreadyExists
	if err != nil && !errors.As(err, &exists) {
		return fmt.Errorf("add search attributes to namespace %s: %w", namespace, err)
	}
	return nil
}

// quiet passes the SDK's log on, its debug and info lines as debug: the loop of a protection would flood the log.
type quiet struct{ l *slog.Logger }

func (q quiet) Debug(msg string, kv ...any) { q.l.Debug(msg, kv...) }
func (q quiet) Info(msg string, kv ...any)  { q.l.Debug(msg, kv...) }
func (q quiet) Warn(msg string, kv ...any)  { q.l.Warn(msg, kv...) }

// Error: an activity that fails is an answer (a VM that is not here, a copy that must wait) and its workflow says so.
func (q quiet) Error(msg string, kv ...any) {
	if msg == "Activity error." {
		q.l.Info("activity_refused", kv...)
		return
	}
	q.l.Error(msg, kv...)
}
