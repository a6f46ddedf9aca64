package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/server/common/api"
	"go.temporal.io/server/common/authorization"

	"understudy/deploy/temporal/trust"
)

// gate decides by the certificate of a connection what it may ask of Temporal: everything for the server, its own queues and
// its own watch for a host, what the command line and the Web UI need for an operator.
type gate struct {
	namespace string
	folder    *trust.Folder
	seal      *seal
}

var (
	_ authorization.ClaimMapper                     = (*gate)(nil)
	_ authorization.ClaimMapperWithAuthInfoRequired = (*gate)(nil)
	_ authorization.Authorizer                      = (*gate)(nil)
)

// AuthInfoRequired is false: a caller without a certificate is to be refused here, not waved through.
func (*gate) AuthInfoRequired() bool { return false }

// GetClaims asks at each call: a connection outlives a certificate.
func (g *gate) GetClaims(info *authorization.AuthInfo) (*authorization.Claims, error) {
	if info == nil || info.TLSConnection == nil || len(info.TLSConnection.State.VerifiedChains) == 0 {
		return nil, errors.New("a certificate is needed")
	}
	cert := info.TLSConnection.State.VerifiedChains[0][0]
	if err := g.folder.Allowed(cert); err != nil {
		return nil, err
	}
	id, err := trust.IdentityOf(cert)
	if err != nil {
		return nil, err
	}
	return &authorization.Claims{Subject: id.String(), Extensions: id, AuthType: "mtls"}, nil
}

func (g *gate) Authorize(_ context.Context, claims *authorization.Claims, target *authorization.CallTarget) (authorization.Result, error) {
	deny := func(why string) (authorization.Result, error) {
		return authorization.Result{Decision: authorization.DecisionDeny, Reason: why}, nil
	}
	if claims == nil {
		return deny("a certificate is needed")
	}
	id, ok := claims.Extensions.(trust.Identity)
	if !ok {
		return deny("a certificate of Understudy is needed")
	}
	var why string
	switch id.Role {
	case trust.Server:
	case trust.Host:
		why = g.host(id.Name, target)
	case trust.Operator:
		why = g.operator(target)
	default:
		why = "unknown role"
	}
	if why != "" {
		return deny(fmt.Sprintf("%s may not call %s: %s", id, target.APIName, why))
	}
	return authorization.Result{
		Decision: authorization.DecisionAllow, Principal: &commonpb.Principal{Type: "mtls", Name: id.String()},
	}, nil
}

const notTheirs = "not among what this role may do"

// host returns why a host's call is refused; empty allows it.
func (g *gate) host(host string, target *authorization.CallTarget) string {
	if authorization.IsHealthCheckAPI(target.APIName) {
		return ""
	}
	method, ok := strings.CutPrefix(target.APIName, api.WorkflowServicePrefix)
	if !ok {
		return notTheirs
	}
	if target.Namespace != g.namespace {
		return "another namespace"
	}
	own := func(q *taskqueuepb.TaskQueue) string {
		if q.GetKind() == enumspb.TASK_QUEUE_KIND_STICKY || !slices.Contains(trust.Queues(host), q.GetName()) {
			return fmt.Sprintf("the queue %q is not its own", q.GetName())
		}
		return ""
	}
	token := func(t []byte) string {
		if !g.seal.fits(host, t) {
			return "the task was not given to it"
		}
		return ""
	}
	// Requests are matched with their method: what is asked is what is decided about.
	switch r := target.Request.(type) {
	case *workflowservice.DescribeNamespaceRequest:
		if r.GetId() == "" {
			return only(method, "DescribeNamespace")
		}
	case *workflowservice.PollActivityTaskQueueRequest:
		return first(only(method, "PollActivityTaskQueue"), own(r.GetTaskQueue()))
	case *workflowservice.RespondActivityTaskCompletedRequest:
		return first(only(method, "RespondActivityTaskCompleted"), token(r.GetTaskToken()))
	case *workflowservice.RespondActivityTaskFailedRequest:
		return first(only(method, "RespondActivityTaskFailed"), token(r.GetTaskToken()))
	case *workflowservice.RespondActivityTaskCanceledRequest:
		return first(only(method, "RespondActivityTaskCanceled"), token(r.GetTaskToken()))
	case *workflowservice.RecordActivityTaskHeartbeatRequest:
		return first(only(method, "RecordActivityTaskHeartbeat"), token(r.GetTaskToken()))
	case *workflowservice.ShutdownWorkerRequest:
		if r.GetStickyTaskQueue() == "" && (r.GetTaskQueue() == "" || slices.Contains(trust.Queues(host), r.GetTaskQueue())) {
			return only(method, "ShutdownWorker")
		}
	case *workflowservice.RecordWorkerHeartbeatRequest:
		for _, beat := range r.GetWorkerHeartbeat() {
			if !slices.Contains(trust.Queues(host), beat.GetTaskQueue()) {
				return fmt.Sprintf("the queue %q is not its own", beat.GetTaskQueue())
			}
		}
		return only(method, "RecordWorkerHeartbeat")
	case *workflowservice.DescribeWorkflowExecutionRequest:
		if r.GetExecution().GetWorkflowId() == trust.HostWatchPrefix+host {
			return only(method, "DescribeWorkflowExecution")
		}
	case *workflowservice.DescribeTaskQueueRequest: // whether a server works at all; it tells people when none does
		if r.GetTaskQueue().GetName() == trust.ControlQueue && r.GetTaskQueue().GetKind() != enumspb.TASK_QUEUE_KIND_STICKY {
			return only(method, "DescribeTaskQueue")
		}
	case *workflowservice.SignalWorkflowExecutionRequest:
		return first(only(method, "SignalWorkflowExecution"), hostSignal(host, r))
	case *workflowservice.SignalWithStartWorkflowExecutionRequest:
		return first(only(method, "SignalWithStartWorkflowExecution"), hostWatch(host, r))
	}
	return notTheirs
}

func only(method, want string) string {
	if method != want {
		return notTheirs
	}
	return ""
}

func first(reasons ...string) string {
	for _, r := range reasons {
		if r != "" {
			return r
		}
	}
	return ""
}

// hostSignal: to any protection, what an agent tells: the standby of tomorrow is not known here. An event names its host.
func hostSignal(host string, r *workflowservice.SignalWorkflowExecutionRequest) string {
	if !strings.HasPrefix(r.GetWorkflowExecution().GetWorkflowId(), trust.ProtectPrefix) {
		return "it signals protections only"
	}
	switch r.GetSignalName() {
	case trust.SignalUtilization:
		return ""
	case trust.SignalVMEvent:
		return speaksFor(host, r.GetInput())
	}
	return fmt.Sprintf("the signal %q is not an agent's", r.GetSignalName())
}

// hostWatch: a host starts and wakes its own watch, which begins knowing nothing.
func hostWatch(host string, r *workflowservice.SignalWithStartWorkflowExecutionRequest) string {
	switch {
	case r.GetWorkflowId() != trust.HostWatchPrefix+host || r.GetWorkflowType().GetName() != trust.HostWatchType:
		return "it starts its own watch only"
	case r.GetSignalName() != trust.SignalAgentStarted || r.GetTaskQueue().GetName() != trust.ControlQueue:
		return "this is not how a watch is started"
	}
	return first(speaksFor(host, r.GetInput()), speaksFor(host, r.GetSignalInput()))
}

// speaksFor reads the host that a message names. A message that carries a state of its own is none of an agent's.
func speaksFor(host string, p *commonpb.Payloads) string {
	var named struct {
		Host  string           `json:"host"`
		State *json.RawMessage `json:"state"`
	}
	if len(p.GetPayloads()) != 1 || json.Unmarshal(p.GetPayloads()[0].GetData(), &named) != nil {
		return "the message cannot be read"
	}
	if named.Host != host || named.State != nil {
		return fmt.Sprintf("the message speaks for host %q", named.Host)
	}
	return ""
}

// operator returns why an operator's call is refused; empty allows it.
func (g *gate) operator(target *authorization.CallTarget) string {
	if authorization.IsHealthCheckAPI(target.APIName) {
		return ""
	}
	if m := api.GetMethodMetadata(target.APIName); m.Access == api.AccessReadOnly {
		if m.Scope == api.ScopeCluster || m.Scope == api.ScopeNamespace && target.Namespace == g.namespace {
			return ""
		}
		return "another namespace"
	}
	method, ok := strings.CutPrefix(target.APIName, api.WorkflowServicePrefix)
	switch {
	case !ok:
		return notTheirs
	case target.Namespace != g.namespace:
		return "another namespace"
	}
	switch r := target.Request.(type) {
	case *workflowservice.StartWorkflowExecutionRequest:
		return first(only(method, "StartWorkflowExecution"), g.protects(r))
	case *workflowservice.ExecuteMultiOperationRequest:
		for _, op := range r.GetOperations() {
			if start := op.GetStartWorkflow(); start != nil {
				if why := g.protects(start); why != "" {
					return why
				}
			} else if update := op.GetUpdateWorkflow(); update == nil || update.GetNamespace() != g.namespace {
				return notTheirs
			}
		}
		return only(method, "ExecuteMultiOperation")
	}
	if slices.Contains([]string{
		"SignalWorkflowExecution", "UpdateWorkflowExecution", "PollWorkflowExecutionUpdate", "QueryWorkflow",
		"RequestCancelWorkflowExecution", "TerminateWorkflowExecution",
	}, method) {
		return ""
	}
	return notTheirs
}

// protects: an operator begins protections, or has those of the records begun again; failovers and the rest are begun by those.
func (g *gate) protects(r *workflowservice.StartWorkflowExecutionRequest) string {
	if r.GetNamespace() == g.namespace && r.GetWorkflowType().GetName() == trust.RecoverType && r.GetTaskQueue().GetName() == trust.ControlQueue &&
		r.GetWorkflowId() == trust.RecoverID {
		return ""
	}
	if r.GetNamespace() != g.namespace || r.GetWorkflowType().GetName() != trust.ProtectType || r.GetTaskQueue().GetName() != trust.ControlQueue ||
		!strings.HasPrefix(r.GetWorkflowId(), trust.ProtectPrefix) {
		return "it starts protections only"
	}
	return ""
}
