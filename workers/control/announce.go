package control

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"understudy/internal/contract"
	"understudy/internal/durable"
	"understudy/internal/model"
)

const announceAgain = 5 * time.Second

// announce tells every protection where leases are granted, when that is not where the server before this one said: holders would
// go on asking there. It tries until all were told or ctx ends.
func (s *server) announce(ctx context.Context, c client.Client) {
	if s.control.Grantor == nil {
		return
	}
	path, self := filepath.Join(s.o.DataDir, "grantor.json"), *s.control.Grantor
	var before model.Grantor
	if err := durable.ReadJSON(path, &before); err == nil && before == self {
		return
	}
	for {
		told, err := tellProtections(ctx, c, s.o.Namespace, self)
		if err == nil {
			err = durable.WriteJSON(path, self)
		}
		if err == nil {
			s.log.Info("grantor_announced", "address", self.Address, "protections", told)
			return
		}
		if ctx.Err() == nil {
			s.log.Warn("grantor_not_announced", "error", err, "again_in", announceAgain.String())
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(announceAgain):
		}
	}
}

func tellProtections(ctx context.Context, c client.Client, namespace string, self model.Grantor) (told int, err error) {
	in := &workflowservice.ListWorkflowExecutionsRequest{
		Namespace: namespace, Query: fmt.Sprintf("WorkflowType = '%s' AND ExecutionStatus = 'Running'", contract.ProtectVMName),
	}
	for {
		page, err := c.ListWorkflow(ctx, in)
		if err != nil {
			return told, err
		}
		for _, e := range page.GetExecutions() {
			id := e.GetExecution().GetWorkflowId()
			err := c.SignalWorkflow(ctx, id, "", contract.SigGrantorMoved.Name, contract.GrantorMoved{Grantor: self})
			var over *serviceerror.NotFound
			if err != nil && !errors.As(err, &over) {
				return told, fmt.Errorf("telling %s: %w", id, err)
			}
			told++
		}
		if in.NextPageToken = page.GetNextPageToken(); len(in.NextPageToken) == 0 {
			return told, nil
		}
	}
}
