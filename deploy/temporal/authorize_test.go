package main

import (
	"context"
	"strings"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	namespacepb "go.temporal.io/api/namespace/v1"
	"go.temporal.io/api/operatorservice/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	workerpb "go.temporal.io/api/worker/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/server/api/adminservice/v1"
	tokenspb "go.temporal.io/server/api/token/v1"
	"go.temporal.io/server/common/authorization"
	"go.temporal.io/server/common/tasktoken"
	"google.golang.org/grpc"

	"understudy/deploy/temporal/trust"
)

const (
	ours      = "understudy"
	workflows = "/temporal.api.workflowservice.v1.WorkflowService/"
	operators = "/temporal.api.operatorservice.v1.OperatorService/"
	admins    = "/temporal.server.api.adminservice.v1.AdminService/"
)

func queue(name string) *taskqueuepb.TaskQueue { return &taskqueuepb.TaskQueue{Name: name} }

func execution(id string) *commonpb.WorkflowExecution {
	return &commonpb.WorkflowExecution{WorkflowId: id}
}

func says(json string) *commonpb.Payloads {
	return &commonpb.Payloads{Payloads: []*commonpb.Payload{{Data: []byte(json)}}}
}

func testGate(t *testing.T) *gate {
	s, err := openSeal("")
	if err != nil {
		t.Fatal(err)
	}
	return &gate{namespace: ours, seal: s}
}

func (g *gate) allows(t *testing.T, id trust.Identity, api, namespace string, req any) bool {
	t.Helper()
	r, err := g.Authorize(context.Background(), &authorization.Claims{Extensions: id},
		&authorization.CallTarget{APIName: api, Namespace: namespace, Request: req})
	if err != nil {
		t.Fatal(err)
	}
	return r.Decision == authorization.DecisionAllow
}

func TestEachRoleMayCallWhatItNeedsAndNothingElse(t *testing.T) {
	g := testGate(t)
	kvm1 := trust.Identity{Role: trust.Host, Name: "kvm1"}
	token := []byte("\x0a\x03abc")
	mine, others := g.seal.put("kvm1", token), g.seal.put("kvm2", token)
	poll := func(q string) *workflowservice.PollActivityTaskQueueRequest {
		return &workflowservice.PollActivityTaskQueueRequest{TaskQueue: queue(q)}
	}
	watch := func(id, input, signal string) *workflowservice.SignalWithStartWorkflowExecutionRequest {
		return &workflowservice.SignalWithStartWorkflowExecutionRequest{
			WorkflowId: id, WorkflowType: &commonpb.WorkflowType{Name: "HostWatch"}, TaskQueue: queue("understudy-control"),
			SignalName: "agent-started", Input: says(input), SignalInput: says(signal),
		}
	}
	signal := func(id, name, input string) *workflowservice.SignalWorkflowExecutionRequest {
		return &workflowservice.SignalWorkflowExecutionRequest{WorkflowExecution: execution(id), SignalName: name, Input: says(input)}
	}
	start := func(id, kind, q string) *workflowservice.StartWorkflowExecutionRequest {
		return &workflowservice.StartWorkflowExecutionRequest{Namespace: ours, WorkflowId: id, WorkflowType: &commonpb.WorkflowType{Name: kind}, TaskQueue: queue(q)}
	}
	multi := func(s *workflowservice.StartWorkflowExecutionRequest, updateIn string) *workflowservice.ExecuteMultiOperationRequest {
		return &workflowservice.ExecuteMultiOperationRequest{Namespace: ours, Operations: []*workflowservice.ExecuteMultiOperationRequest_Operation{
			{Operation: &workflowservice.ExecuteMultiOperationRequest_Operation_StartWorkflow{StartWorkflow: s}},
			{Operation: &workflowservice.ExecuteMultiOperationRequest_Operation_UpdateWorkflow{UpdateWorkflow: &workflowservice.UpdateWorkflowExecutionRequest{Namespace: updateIn}}},
		}}
	}
	beat := func(queues ...string) *workflowservice.RecordWorkerHeartbeatRequest {
		r := &workflowservice.RecordWorkerHeartbeatRequest{}
		for _, q := range queues {
			r.WorkerHeartbeat = append(r.WorkerHeartbeat, &workerpb.WorkerHeartbeat{TaskQueue: q})
		}
		return r
	}
	const protect = "protect/8a3c1d6e-0f5b-4c7a-9d2e-1b6f5a4c3d2e"

	for _, c := range []struct {
		api, namespace string
		req            any
		who            string // who of host and operator may; the server always may
	}{
		{workflows + "GetSystemInfo", "", &workflowservice.GetSystemInfoRequest{}, "host operator"},
		{"/grpc.health.v1.Health/Check", "", nil, "host operator"},
		{workflows + "DescribeNamespace", ours, &workflowservice.DescribeNamespaceRequest{Namespace: ours}, "host operator"},
		{workflows + "DescribeNamespace", "temporal-system", &workflowservice.DescribeNamespaceRequest{Namespace: "temporal-system"}, ""},
		{workflows + "DescribeNamespace", ours, &workflowservice.DescribeNamespaceRequest{Namespace: ours, Id: "32049b68"}, "operator"},
		{workflows + "PollActivityTaskQueue", ours, poll("understudy-host-kvm1-ctl"), "host"},
		{workflows + "PollActivityTaskQueue", ours, poll("understudy-host-kvm1-bulk"), "host"},
		{workflows + "PollActivityTaskQueue", ours, poll("understudy-host-kvm2-ctl"), ""},
		{workflows + "PollActivityTaskQueue", ours, poll("understudy-host-kvm1-ctl-bulk"), ""},
		{workflows + "PollActivityTaskQueue", ours, poll("understudy-control"), ""},
		{workflows + "PollActivityTaskQueue", "other", poll("understudy-host-kvm1-ctl"), ""},
		{workflows + "PollActivityTaskQueue", ours, &workflowservice.PollActivityTaskQueueRequest{TaskQueue: &taskqueuepb.TaskQueue{
			Name: "understudy-host-kvm1-ctl", Kind: enumspb.TASK_QUEUE_KIND_STICKY, NormalName: "understudy-control"}}, ""},
		{workflows + "PollWorkflowTaskQueue", ours, &workflowservice.PollWorkflowTaskQueueRequest{TaskQueue: queue("understudy-host-kvm1-ctl")}, ""},
		{workflows + "PollWorkflowTaskQueue", ours, poll("understudy-host-kvm1-ctl"), ""},
		{workflows + "PollNexusTaskQueue", ours, &workflowservice.PollNexusTaskQueueRequest{TaskQueue: queue("understudy-host-kvm1-ctl")}, ""},
		{workflows + "RespondActivityTaskCompleted", ours, &workflowservice.RespondActivityTaskCompletedRequest{TaskToken: mine}, "host"},
		{workflows + "RespondActivityTaskCompleted", ours, &workflowservice.RespondActivityTaskCompletedRequest{TaskToken: others}, ""},
		{workflows + "RespondActivityTaskCompleted", ours, &workflowservice.RespondActivityTaskCompletedRequest{TaskToken: token}, ""},
		{workflows + "RespondActivityTaskFailed", ours, &workflowservice.RespondActivityTaskFailedRequest{TaskToken: mine}, "host"},
		{workflows + "RespondActivityTaskCanceled", ours, &workflowservice.RespondActivityTaskCanceledRequest{TaskToken: others}, ""},
		{workflows + "RecordActivityTaskHeartbeat", ours, &workflowservice.RecordActivityTaskHeartbeatRequest{TaskToken: mine}, "host"},
		{workflows + "RecordActivityTaskHeartbeat", ours, &workflowservice.RecordActivityTaskHeartbeatRequest{}, ""},
		{workflows + "RespondActivityTaskCompletedById", ours, &workflowservice.RespondActivityTaskCompletedByIdRequest{WorkflowId: protect}, ""},
		{workflows + "RespondWorkflowTaskCompleted", ours, &workflowservice.RespondWorkflowTaskCompletedRequest{TaskToken: mine}, ""},
		{workflows + "RecordWorkerHeartbeat", ours, beat("understudy-host-kvm1-ctl", "understudy-host-kvm1-bulk"), "host"},
		{workflows + "RecordWorkerHeartbeat", ours, beat("understudy-host-kvm1-ctl", "understudy-control"), ""},
		{workflows + "ShutdownWorker", ours, &workflowservice.ShutdownWorkerRequest{TaskQueue: "understudy-host-kvm1-bulk"}, "host"},
		{workflows + "ShutdownWorker", ours, &workflowservice.ShutdownWorkerRequest{StickyTaskQueue: "anybody's"}, ""},
		{workflows + "SignalWithStartWorkflowExecution", ours, watch("hostwatch/kvm1", `{"host":"kvm1"}`, `{"host":"kvm1"}`), "host"},
		{workflows + "SignalWithStartWorkflowExecution", ours, watch("hostwatch/kvm2", `{"host":"kvm2"}`, `{"host":"kvm2"}`), ""},
		{workflows + "SignalWithStartWorkflowExecution", ours, watch("hostwatch/kvm1", `{"host":"kvm1"}`, `{"host":"kvm2"}`), ""},
		{workflows + "SignalWithStartWorkflowExecution", ours, watch("hostwatch/kvm1", `{"host":"kvm1","state":{}}`, `{"host":"kvm1"}`), ""},
		{workflows + "SignalWorkflowExecution", ours, signal(protect, "utilization", `{}`), "host operator"},
		{workflows + "SignalWorkflowExecution", ours, signal(protect, "vm-event", `{"host":"kvm1","event":{}}`), "host operator"},
		{workflows + "SignalWorkflowExecution", ours, signal(protect, "vm-event", `{"host":"kvm2","event":{}}`), "operator"},
		{workflows + "SignalWorkflowExecution", ours, signal(protect, "crash", `{}`), "operator"},
		{workflows + "SignalWorkflowExecution", ours, signal(protect, "host-suspect", `{"host":"kvm1"}`), "operator"},
		{workflows + "SignalWorkflowExecution", ours, signal("failover/x/2", "vm-event", `{"host":"kvm1"}`), "operator"},
		{workflows + "DescribeWorkflowExecution", ours, &workflowservice.DescribeWorkflowExecutionRequest{Execution: execution("hostwatch/kvm1")}, "host operator"},
		{workflows + "DescribeWorkflowExecution", ours, &workflowservice.DescribeWorkflowExecutionRequest{Execution: execution(protect)}, "operator"},
		{workflows + "GetWorkflowExecutionHistory", ours, &workflowservice.GetWorkflowExecutionHistoryRequest{Execution: execution(protect)}, "operator"},
		{workflows + "GetWorkflowExecutionHistory", "other", &workflowservice.GetWorkflowExecutionHistoryRequest{Execution: execution(protect)}, ""},
		{workflows + "ListWorkflowExecutions", ours, &workflowservice.ListWorkflowExecutionsRequest{}, "operator"},
		{workflows + "DescribeTaskQueue", ours, &workflowservice.DescribeTaskQueueRequest{TaskQueue: queue("understudy-control")}, "host operator"},
		{workflows + "DescribeTaskQueue", ours, &workflowservice.DescribeTaskQueueRequest{TaskQueue: queue("understudy-host-kvm2-ctl")}, "operator"},
		{workflows + "PollActivityTaskQueue", ours, &workflowservice.DescribeTaskQueueRequest{TaskQueue: queue("understudy-control")}, ""},
		{workflows + "QueryWorkflow", ours, &workflowservice.QueryWorkflowRequest{}, "operator"},
		{workflows + "UpdateWorkflowExecution", ours, &workflowservice.UpdateWorkflowExecutionRequest{}, "operator"},
		{workflows + "PollWorkflowExecutionUpdate", ours, &workflowservice.PollWorkflowExecutionUpdateRequest{}, "operator"},
		{workflows + "TerminateWorkflowExecution", ours, &workflowservice.TerminateWorkflowExecutionRequest{}, "operator"},
		{workflows + "StartWorkflowExecution", ours, start("recover", "Recover", "understudy-control"), "operator"},
		{workflows + "StartWorkflowExecution", ours, start("recover", "Recover", "elsewhere"), ""},
		{workflows + "StartWorkflowExecution", ours, start(protect, "ProtectVM", "understudy-control"), "operator"},
		{workflows + "StartWorkflowExecution", ours, start("failover/x/2", "FailoverVM", "understudy-control"), ""},
		{workflows + "StartWorkflowExecution", ours, start(protect, "ProtectVM", "elsewhere"), ""},
		{workflows + "ExecuteMultiOperation", ours, multi(start(protect, "ProtectVM", "understudy-control"), ours), "operator"},
		{workflows + "ExecuteMultiOperation", ours, multi(start(protect, "FailoverVM", "understudy-control"), ours), ""},
		{workflows + "ExecuteMultiOperation", ours, multi(start(protect, "ProtectVM", "understudy-control"), "other"), ""},
		{workflows + "ResetWorkflowExecution", ours, &workflowservice.ResetWorkflowExecutionRequest{}, ""},
		{workflows + "DeleteWorkflowExecution", ours, &workflowservice.DeleteWorkflowExecutionRequest{}, ""},
		{workflows + "StartBatchOperation", ours, &workflowservice.StartBatchOperationRequest{}, ""},
		{workflows + "UpdateNamespace", ours, &workflowservice.UpdateNamespaceRequest{UpdateInfo: &namespacepb.UpdateNamespaceInfo{}}, ""},
		{workflows + "RegisterNamespace", ours, &workflowservice.RegisterNamespaceRequest{}, ""},
		{operators + "ListSearchAttributes", ours, &operatorservice.ListSearchAttributesRequest{}, "operator"},
		{operators + "AddSearchAttributes", ours, &operatorservice.AddSearchAttributesRequest{}, ""},
		{operators + "DeleteNamespace", ours, &operatorservice.DeleteNamespaceRequest{}, ""},
		{admins + "DescribeMutableState", ours, &adminservice.DescribeMutableStateRequest{}, ""},
		{admins + "StreamWorkflowReplicationMessages", "", nil, ""},
		{workflows + "NoSuchThing", ours, nil, ""},
	} {
		for role, id := range map[string]trust.Identity{"host": kvm1, "operator": {Role: trust.Operator, Name: "kim"}, "server": {Role: trust.Server}} {
			want := role == "server" || strings.Contains(c.who, role)
			if got := g.allows(t, id, c.api, c.namespace, c.req); got != want {
				t.Errorf("%s in %q by %s: allowed %v, %+v", c.api, c.namespace, role, got, c.req)
			}
		}
	}
	for name, claims := range map[string]*authorization.Claims{
		"nobody": nil, "a claim of another kind": {System: authorization.RoleAdmin}, "an unknown role": {Extensions: trust.Identity{Role: "root"}},
	} {
		r, err := g.Authorize(context.Background(), claims, &authorization.CallTarget{APIName: workflows + "GetSystemInfo"})
		if err != nil || r.Decision != authorization.DecisionDeny {
			t.Errorf("%s was allowed", name)
		}
	}
	if _, err := g.GetClaims(&authorization.AuthInfo{}); err == nil {
		t.Error("a caller without a certificate has claims")
	}
}

func TestATaskIsSealedForTheHostThatPolledItAndTemporalStillReadsIt(t *testing.T) {
	path := t.TempDir() + "/key"
	s, err := openSeal(path)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := tasktoken.NewSerializer().Serialize(&tokenspb.Task{NamespaceId: "n", WorkflowId: "w", ScheduledEventId: 5})
	if err != nil {
		t.Fatal(err)
	}
	poll := func(id trust.Identity) []byte {
		ctx := context.WithValue(context.Background(), authorization.MappedClaims, &authorization.Claims{Extensions: id})
		out, err := s.intercept(ctx, nil, &grpc.UnaryServerInfo{}, func(context.Context, any) (any, error) {
			return &workflowservice.PollActivityTaskQueueResponse{TaskToken: plain}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return out.(*workflowservice.PollActivityTaskQueueResponse).GetTaskToken()
	}
	token := poll(trust.Identity{Role: trust.Host, Name: "kvm1"})
	again, err := openSeal(path)
	if err != nil {
		t.Fatal(err)
	}
	if !again.fits("kvm1", token) || again.fits("kvm2", token) || again.fits("kvm1", plain) || again.fits("kvm1", append(token, 0)) {
		t.Error("the seal does not tell hosts apart, or is not kept")
	}
	read, err := tasktoken.NewSerializer().Deserialize(token)
	if err != nil || read.GetWorkflowId() != "w" || read.GetScheduledEventId() != 5 {
		t.Errorf("%v, %v", read, err)
	}
	if string(poll(trust.Identity{Role: trust.Server})) != string(plain) {
		t.Error("the server's own tasks need no seal")
	}
}
