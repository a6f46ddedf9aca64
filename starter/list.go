package starter

import (
	"context"
	"fmt"
	"sort"
	"time"

	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"golang.org/x/sync/errgroup"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// few protections are all asked: their answers then hold what goes on at this moment, and no list lags behind.
const few = 20

// List returns all protections, by name. What could be asked is returned also when others could not.
func (c *Client) List(ctx context.Context) ([]contract.DescribeOut, error) { return c.list(ctx, "") }

// list asks all protections, or those that may be of one VM.
func (c *Client) list(ctx context.Context, vm string) ([]contract.DescribeOut, error) {
	runs, err := c.running(ctx, contract.ProtectVMName)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, r := range runs {
		var name string
		known := decode(r.GetMemo().GetFields()[contract.MemoVM], &name) == nil && name != ""
		if vm == "" || !known || name == vm {
			ids = append(ids, r.GetExecution().GetWorkflowId())
		}
	}
	out, err := askAll(ctx, c, contract.QueryDescribe, ids)
	kept := out[:0]
	for _, d := range out {
		if vm == "" || d.Spec.VM.Name == vm {
			kept = append(kept, d)
		}
	}
	sortByName(kept)
	return kept, err
}

func sortByName(all []contract.DescribeOut) {
	sort.Slice(all, func(i, j int) bool {
		a, b := all[i].Spec.VM, all[j].Spec.VM
		return a.Name < b.Name || a.Name == b.Name && a.UUID < b.UUID
	})
}

// Overview is List for people who look at a fleet: of a protection that says in its memo that all is well, and until when,
// it holds what the memo holds (no observation, no decisions, of its points the last). All others are asked, and always the
// one that has something new to say first: when nobody works on the workflows, that one does not answer.
func (c *Client) Overview(ctx context.Context) ([]contract.DescribeOut, error) {
	runs, err := c.running(ctx, contract.ProtectVMName)
	if err != nil {
		return nil, err
	}
	var ids []string
	var out []contract.DescribeOut
	var told []contract.Now
	now := time.Now()
	for _, r := range runs {
		l, n, ok := inMemo(r)
		if len(runs) <= few || !ok || !n.Plain || !now.Before(n.Until) {
			ids = append(ids, r.GetExecution().GetWorkflowId())
			continue
		}
		out, told = append(out, l.Describe(n)), append(told, n)
	}
	if first := soonest(told); first >= 0 {
		ids = append(ids, contract.ProtectID(out[first].Spec.VM.UUID))
		out[first] = out[len(out)-1]
		out = out[:len(out)-1]
	}
	answers, err := askAll(ctx, c, contract.QueryDescribe, ids)
	out = append(out, answers...)
	sortByName(out)
	return out, err
}

// inMemo is what a protection said of itself; false where it said nothing, or nothing that can be read.
func inMemo(r *workflowpb.WorkflowExecutionInfo) (contract.Listed, contract.Now, bool) {
	var l contract.Listed
	var n contract.Now
	fields := r.GetMemo().GetFields()
	ok := fields[contract.MemoNow] != nil && fields[contract.MemoListed] != nil &&
		decode(fields[contract.MemoNow], &n) == nil && decode(fields[contract.MemoListed], &l) == nil
	return l, n, ok && contract.ProtectID(l.VM.UUID) == r.GetExecution().GetWorkflowId()
}

func soonest(told []contract.Now) int {
	first := -1
	for i, n := range told {
		if first < 0 || n.Until.Before(told[first].Until) {
			first = i
		}
	}
	return first
}

// running lists the open runs of a workflow type, one per workflow id.
func (c *Client) running(ctx context.Context, workflowType string) ([]*workflowpb.WorkflowExecutionInfo, error) {
	return c.runningOf(ctx, workflowType, "")
}

func (c *Client) runningOf(ctx context.Context, workflowType, and string) ([]*workflowpb.WorkflowExecutionInfo, error) {
	listCtx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var all []*workflowpb.WorkflowExecutionInfo
	seen := map[string]bool{}
	req := &workflowservice.ListWorkflowExecutionsRequest{
		PageSize: 500, Query: fmt.Sprintf("WorkflowType = '%s' AND ExecutionStatus = 'Running'%s", workflowType, and),
	}
	for {
		page, err := c.t.ListWorkflow(listCtx, req)
		if err != nil {
			return nil, c.failure(ctx, err, subject{gone: "there is no such list"})
		}
		for _, r := range page.GetExecutions() {
			if id := r.GetExecution().GetWorkflowId(); !seen[id] {
				seen[id] = true
				all = append(all, r)
			}
		}
		if req.NextPageToken = page.GetNextPageToken(); len(req.NextPageToken) == 0 {
			return all, nil
		}
	}
}

// askAll queries many workflows; one that ended meanwhile is left out, and the first other error comes with what was
// answered.
func askAll[Out any](ctx context.Context, c *Client, q contract.Query[Out], ids []string) ([]Out, error) {
	answers, errs := make([]*Out, len(ids)), make([]error, len(ids))
	var g errgroup.Group
	g.SetLimit(parallel)
	for i, id := range ids {
		g.Go(func() error {
			out, err := ask(ctx, c, q, id, subject{gone: "it has ended"})
			if err == nil {
				answers[i] = &out
			} else if model.KindOf(err) != model.NotFound {
				errs[i] = err
			}
			return nil
		})
	}
	_ = g.Wait() // errors are kept per workflow
	out := make([]Out, 0, len(ids))
	for _, a := range answers {
		if a != nil {
			out = append(out, *a)
		}
	}
	for _, err := range errs {
		if err != nil {
			return out, err
		}
	}
	return out, nil
}
