package workflows

import (
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
)

// Register binds the workflows to a worker; these are the only RegisterWorkflow calls, and workflowcheck starts here.
func Register(r worker.Registry) {
	r.RegisterWorkflowWithOptions(ProtectVM, workflow.RegisterOptions{Name: contract.ProtectVMName})
	r.RegisterWorkflowWithOptions(FailoverVM, workflow.RegisterOptions{Name: contract.FailoverVMName})
	r.RegisterWorkflowWithOptions(TestFailoverVM, workflow.RegisterOptions{Name: contract.TestFailoverName})
	r.RegisterWorkflowWithOptions(Recovery, workflow.RegisterOptions{Name: contract.RecoveryName})
	r.RegisterWorkflowWithOptions(Recover, workflow.RegisterOptions{Name: contract.RecoverName})
	r.RegisterWorkflowWithOptions(HostWatch, workflow.RegisterOptions{Name: contract.HostWatchName})
}
