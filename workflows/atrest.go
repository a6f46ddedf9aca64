package workflows

import (
	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// atRest raises or clears the alert of a standby that holds replicas on disks that are not encrypted, against the policy.
// Replication goes on: the points that are there are no safer without newer ones.
func (p *protection) atRest(ctx workflow.Context, h model.HostID, said string) {
	if h != p.st.Standby {
		return
	}
	if err := p.st.Policy.RefuseAtRest(p.vm.Name, h, said); err != nil {
		p.alert(ctx, contract.AlertNotEncrypted, sentence(err), "understudy doctor --host "+string(h))
		return
	}
	p.clear(contract.AlertNotEncrypted)
}

// mayKeep asks the standby before a policy that requires encryption is taken. No other policy costs a question.
func (p *protection) mayKeep(ctx workflow.Context, policy model.Policy) error {
	if policy.EncryptionAtRest == "" {
		return nil
	}
	h := p.st.Standby
	out, err := contract.Inspect.Execute(ctx, p.queue(h), "is it encrypted?", contract.InspectIn{})
	if err != nil {
		return surface(err, p.vm.Name, h)
	}
	if err := policy.RefuseAtRest(p.vm.Name, h, out.Facts.AtRest); err != nil {
		return contract.RefuseFailure(err)
	}
	return nil
}
