package starter

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"understudy/internal/contract"
	"understudy/internal/model"
)

type payload = commonpb.Payload

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
		Memo:                     map[string]any{contract.MemoVM: spec.VM.Name},
		StaticSummary:            fmt.Sprintf("%s: %s to %s", spec.VM.Name, spec.Primary, spec.Standby),
	}, contract.ProtectVMName, contract.ProtectIn{Spec: spec})
	c.touch(contract.ProtectID(spec.VM.UUID))
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
		name := a.GetActivityType().GetName()
		if name != contract.Replicate.Name && name != contract.CaptureAndSend.Name || len(beats) == 0 {
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
