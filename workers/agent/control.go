package agent

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"

	"understudy/activities"
	"understudy/internal/contract"
	"understudy/internal/model"
	"understudy/starter"
)

const (
	shortAtOnce   = 50
	bulkAtOnce    = 4
	sharedAtOnce  = 16              // where a budget shares the link: what waits for its grant must not keep others out
	stopLimit     = 3 * time.Second // for activities under way
	beatThrottle  = time.Second     // the watch of a host has a heartbeat limit of three seconds
	workerWait    = 2 * time.Second
	announceEvery = 10 * time.Second
	announceRetry = time.Second
)

// signals reaches the workflows as soon as there is a connection.
type signals struct {
	c atomic.Pointer[starter.Client]
}

func (s *signals) Utilization(ctx context.Context, uuid string, in contract.UtilizationIn) error {
	return send(ctx, s, contract.SigUtilization, uuid, in)
}

func (s *signals) Event(ctx context.Context, uuid string, in contract.VMEventIn) error {
	return send(ctx, s, contract.SigVMEvent, uuid, in)
}

func send[T any](ctx context.Context, s *signals, sig contract.Signal[T], uuid string, v T) error {
	c := s.c.Load()
	if c == nil {
		return model.Fail(model.Unreachable, nil, "Temporal was not reached yet")
	}
	return starter.SignalTo(ctx, c, sig, contract.ProtectID(uuid), v)
}

// work polls both queues until ctx ends or a worker fails for good.
func work(ctx context.Context, c client.Client, h *activities.Host, atOnce int, log *slog.Logger) error {
	fatal := make(chan error, 2)
	short := newWorker(c, contract.HostQueue(h.ID), shortAtOnce, fatal)
	bulk := newWorker(c, contract.BulkQueue(h.ID), atOnce, fatal)
	h.Register(short, bulk)
	// The bulk queue first: who finds the host by its short queue may use both.
	if err := bulk.Start(); err != nil {
		return err
	}
	defer bulk.Stop()
	if err := short.Start(); err != nil {
		return err
	}
	defer short.Stop()
	log.Info("serving_queues")
	select {
	case <-ctx.Done():
		return nil
	case err := <-fatal:
		return err
	}
}

func newWorker(c client.Client, queue string, atOnce int, fatal chan<- error) worker.Worker {
	return worker.New(c, queue, worker.Options{
		MaxConcurrentActivityExecutionSize: atOnce,
		DisableWorkflowWorker:              true,
		WorkerStopTimeout:                  stopLimit,
		MaxHeartbeatThrottleInterval:       beatThrottle,
		DefaultHeartbeatThrottleInterval:   beatThrottle,
		OnFatalError: func(err error) {
			select {
			case fatal <- err:
			default:
			}
		},
	})
}

// serve goes on polling whatever fails: a namespace that is not made yet, a cluster that forgot it.
func serve(ctx context.Context, c client.Client, h *activities.Host, atOnce int, log *slog.Logger) {
	for ctx.Err() == nil {
		if err := work(ctx, c, h, atOnce, log); err != nil {
			log.Warn("queues_not_served", "error", err, "again_in", workerWait.String())
			pause(ctx, workerWait)
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// announce tells the watch of this host that its agent is there: at the start, when what others rest on changed, after the
// control plane was away, and when nobody watches.
func announce(ctx context.Context, c client.Client, to *starter.Client, s *self, log *slog.Logger) {
	var told model.HostFacts
	due := true
	for ctx.Err() == nil {
		facts := s.Facts(ctx)
		if !due {
			due = differ(told, facts) || !watched(ctx, c, facts.Host)
		}
		if !due {
			pause(ctx, announceEvery)
			continue
		}
		if err := to.AgentStarted(ctx, facts); err != nil {
			if ctx.Err() == nil {
				log.Warn("not_announced", "error", err)
			}
			pause(ctx, announceRetry)
			continue
		}
		s.known.Store(true)
		log.Info("announced", "link_address", facts.LinkAddress)
		told, due = facts, false
		pause(ctx, announceEvery)
	}
}

// differ compares what others rest on.
func differ(a, b model.HostFacts) bool {
	return a.LinkAddress != b.LinkAddress || a.Libvirt != b.Libvirt || a.QEMU != b.QEMU || a.AgentVersion != b.AgentVersion
}

// watched is false when the control plane does not answer either: then it is told again when it does.
func watched(ctx context.Context, c client.Client, host model.HostID) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	d, err := c.DescribeWorkflowExecution(ctx, contract.HostWatchID(host), "")
	return err == nil && d.GetWorkflowExecutionInfo().GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING
}
