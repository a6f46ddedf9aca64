package starter

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"golang.org/x/sync/errgroup"

	"understudy/internal/contract"
	"understudy/internal/model"
)

type payload = commonpb.Payload

// memoVM lets a VM be found by name without asking every protection; continue-as-new keeps it.
const memoVM = "vm"

const unprotectedTry = "understudy protect --standby HOST "

func aboutVM(vm model.VMRef) subject {
	name := vm.Name
	if name == "" {
		name = vm.UUID
	}
	return subject{vm: name, gone: "it is not protected", try: unprotectedTry + name}
}

// EnsureProtected starts the protection and waits until both hosts were checked: a refusal is returned with its kind and
// leaves nothing behind. A VM that is protected already is a Conflict.
func (c *Client) EnsureProtected(ctx context.Context, spec contract.ProtectSpec) (contract.DescribeOut, error) {
	var out contract.DescribeOut
	about := aboutVM(spec.VM)
	if err := validSpec(spec); err != nil {
		return out, err
	}
	start := c.t.NewWithStartWorkflowOperation(client.StartWorkflowOptions{
		ID: contract.ProtectID(spec.VM.UUID), TaskQueue: contract.ControlQueue,
		WorkflowIDConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
		WorkflowIDReusePolicy:    enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		Memo:                     map[string]any{memoVM: spec.VM.Name},
		StaticSummary:            fmt.Sprintf("%s: %s to %s", spec.VM.Name, spec.Primary, spec.Standby),
	}, contract.ProtectVMName, contract.ProtectIn{Spec: spec})
	acceptCtx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	h, err := c.t.UpdateWithStartWorkflow(acceptCtx, client.UpdateWithStartWorkflowOptions{
		StartWorkflowOperation: start,
		UpdateOptions: client.UpdateWorkflowOptions{
			UpdateName: contract.UpdAwaitReady.Name, Args: []any{contract.None{}}, WaitForStage: client.WorkflowUpdateStageAccepted,
		},
	})
	if err == nil {
		err = h.Get(ctx, &out)
	}
	return out, c.failure(ctx, err, about)
}

func validSpec(spec contract.ProtectSpec) error {
	switch {
	case !model.ValidUUID(spec.VM.UUID):
		return model.Fail(model.InvalidArgument, nil, "%q is not the UUID of a VM", spec.VM.UUID).WithVM(spec.VM.Name)
	case !model.ValidHostID(spec.Primary) || !model.ValidHostID(spec.Standby):
		return model.Fail(model.InvalidArgument, nil, "%q and %q cannot both name hosts", spec.Primary, spec.Standby).WithVM(spec.VM.Name).
			WithTry("understudy hosts")
	case spec.Primary == spec.Standby:
		return model.Fail(model.InvalidArgument, nil, "the standby must be another host than the primary").WithVM(spec.VM.Name).
			WithHost(spec.Standby).WithTry("understudy hosts")
	}
	return spec.Policy.Validate()
}

// Describe returns everything a protection knows.
func (c *Client) Describe(ctx context.Context, uuid string) (contract.DescribeOut, error) {
	return ask(ctx, c, contract.QueryDescribe, contract.ProtectID(uuid), aboutVM(model.VMRef{UUID: uuid}))
}

// Find returns the protection of a VM by name or UUID.
func (c *Client) Find(ctx context.Context, vm string) (contract.DescribeOut, error) {
	if model.ValidUUID(strings.ToLower(vm)) {
		return c.Describe(ctx, strings.ToLower(vm))
	}
	for try := 0; ; try++ {
		found, err := c.list(ctx, vm)
		switch {
		case err != nil && len(found) == 0:
			return contract.DescribeOut{}, err
		case len(found) == 1:
			return found[0], nil
		case len(found) > 1:
			return contract.DescribeOut{}, ambiguous(vm, found)
		case try == 2:
			return contract.DescribeOut{}, model.Fail(model.NotFound, nil, "it is not protected").WithVM(vm).WithTry(unprotectedTry + vm)
		}
		// Lists lag a little: a protection that has just begun or continued as new is missing for an instant.
		select {
		case <-ctx.Done():
			return contract.DescribeOut{}, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func ambiguous(vm string, found []contract.DescribeOut) error {
	var ids []string
	for _, d := range found {
		ids = append(ids, d.Spec.VM.UUID+" on "+string(d.State.Primary))
	}
	return model.Fail(model.Conflict, nil, "several protected VMs have this name: %s", strings.Join(ids, ", ")).WithVM(vm).
		WithTry("the same command with the UUID")
}

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
		known := decode(r.GetMemo().GetFields()[memoVM], &name) == nil && name != ""
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
	sort.Slice(kept, func(i, j int) bool {
		a, b := kept[i].Spec.VM, kept[j].Spec.VM
		return a.Name < b.Name || a.Name == b.Name && a.UUID < b.UUID
	})
	return kept, err
}

// running lists the open runs of a workflow type, one per workflow id.
func (c *Client) running(ctx context.Context, workflowType string) ([]*workflowpb.WorkflowExecutionInfo, error) {
	listCtx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var all []*workflowpb.WorkflowExecutionInfo
	seen := map[string]bool{}
	req := &workflowservice.ListWorkflowExecutionsRequest{
		PageSize: 500, Query: fmt.Sprintf("WorkflowType = '%s' AND ExecutionStatus = 'Running'", workflowType),
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

// Pause stops making points until Resume.
func (c *Client) Pause(ctx context.Context, vm model.VMRef, in contract.PauseIn) (contract.DescribeOut, error) {
	return tell(ctx, c, contract.UpdPause, contract.ProtectID(vm.UUID), in, aboutVM(vm))
}

// Resume goes on after Pause, or after a person dealt with a failure.
func (c *Client) Resume(ctx context.Context, vm model.VMRef, in contract.ResumeIn) (contract.DescribeOut, error) {
	return tell(ctx, c, contract.UpdResume, contract.ProtectID(vm.UUID), in, aboutVM(vm))
}

// SetPolicy replaces the policy.
func (c *Client) SetPolicy(ctx context.Context, vm model.VMRef, p model.Policy) (contract.DescribeOut, error) {
	if err := p.Validate(); err != nil {
		return contract.DescribeOut{}, err
	}
	return tell(ctx, c, contract.UpdSetPolicy, contract.ProtectID(vm.UUID), contract.SetPolicyIn{Policy: p}, aboutVM(vm))
}

// SetStart gives a VM its place in the recovery plan, or takes it away.
func (c *Client) SetStart(ctx context.Context, vm model.VMRef, in contract.SetStartIn) (contract.DescribeOut, error) {
	return tell(ctx, c, contract.UpdSetStart, contract.ProtectID(vm.UUID), in, aboutVM(vm))
}

// ReplicateNow waits for a point that was captured after the call.
func (c *Client) ReplicateNow(ctx context.Context, vm model.VMRef, in contract.ReplicateNowIn) (contract.PointSummary, error) {
	out, err := tell(ctx, c, contract.UpdReplicateNow, contract.ProtectID(vm.UUID), in, aboutVM(vm))
	return out.Point, err
}

// RequestFailover starts a failover, or joins the one that runs; it does not wait for its end.
func (c *Client) RequestFailover(ctx context.Context, vm model.VMRef, in contract.FailoverRequestIn) (contract.FailoverRequestOut, error) {
	return tell(ctx, c, contract.UpdFailover, contract.ProtectID(vm.UUID), in, aboutVM(vm))
}

// Conclude tells a running failover what a person decided, and waits until it has ended.
func (c *Client) Conclude(ctx context.Context, vm model.VMRef, in contract.FailoverOrder) (contract.FailoverBrief, error) {
	return tell(ctx, c, contract.UpdConclude, contract.ProtectID(vm.UUID), in, aboutVM(vm))
}

// Unprotect ends the protection and waits until our marks are gone.
func (c *Client) Unprotect(ctx context.Context, vm model.VMRef, in contract.UnprotectIn) (contract.UnprotectOut, error) {
	return tell(ctx, c, contract.UpdUnprotect, contract.ProtectID(vm.UUID), in, aboutVM(vm))
}

// FailoverTimeline returns what a running failover has done so far.
func (c *Client) FailoverTimeline(ctx context.Context, vm model.VMRef, workflowID string) (contract.FailoverOut, error) {
	about := aboutVM(vm)
	about.gone, about.try = "that failover has ended", "understudy status "+about.vm
	return ask(ctx, c, contract.QueryFailover, workflowID, about)
}

// Progress returns the newest heartbeat of the replication under way; nil when none runs.
func (c *Client) Progress(ctx context.Context, vm model.VMRef) (*contract.ReplicateProgress, error) {
	askCtx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	d, err := c.t.DescribeWorkflowExecution(askCtx, contract.ProtectID(vm.UUID), "")
	if err != nil {
		return nil, c.failure(ctx, err, aboutVM(vm))
	}
	for _, a := range d.GetPendingActivities() {
		beats := a.GetHeartbeatDetails().GetPayloads()
		if a.GetActivityType().GetName() != contract.Replicate.Name || len(beats) == 0 {
			continue
		}
		var p contract.ReplicateProgress
		if err := decode(beats[0], &p); err != nil {
			return nil, model.Fail(model.Internal, errors.Unwrap(err), "the heartbeat of replicate cannot be read").WithVM(vm.Name)
		}
		return &p, nil
	}
	return nil, nil
}
