package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/model"
)

const handBackName = "hand back"

// takeBack undoes what was done and says what people need to know.
func (f *failover) takeBack(ctx workflow.Context, err error) {
	surfaced := surface(err, f.in.VM.Name, f.in.To)
	f.out.Error, f.out.ErrorType, f.out.Try = clip(sentence(surfaced)), string(kindOf(surfaced)), advice(surfaced)
	f.out.Undone, f.out.UndoFailed = f.undo.unwind(ctx)
	f.out.Outcome = contract.OutcomeRolledBack
	for _, stuck := range f.out.UndoFailed {
		f.log.Error("an undo is stuck", "undo", stuck)
		if f.out.HandedBackGeneration == 0 {
			f.out.Outcome = contract.OutcomeFailed
		}
	}
}

// handBack gives the VM back to its last holder under a generation of its own. Without evidence this is allowed only
// where the target was never permitted; otherwise the target surrenders first, durably, under the new generation.
func (f *failover) handBack(ctx workflow.Context) error {
	free, err := contract.ReadRecord.Execute(ctx, contract.ControlQueue, "who may run it?", f.fence())
	if err != nil {
		return err
	}
	rec := free.Record
	g := contract.Fence{VM: f.in.VM, Generation: f.in.Generation + 1}
	holder, permitted := rec.PermitHost, rec.Permitted
	ours := permitted == f.in.Generation
	if ours {
		holder = f.in.From
	}
	if rec.Permitted == g.Generation { // an earlier run of this undo came to the end
		f.handedBack(rec)
		return nil
	}
	claim := contract.ClaimIn{Fence: g, Target: holder, Attempt: f.id, Expect: permitted}
	if _, err := contract.Claim.Execute(ctx, contract.ControlQueue, fmt.Sprintf("claim generation %d for %s", g.Generation, holder), claim); err != nil {
		return err
	}
	var proof *model.Evidence
	if ours && holder != rec.PermitHost {
		out, err := contract.Surrender.Execute(ctx, contract.HostQueue(rec.PermitHost), "the new holder gives it up", contract.SurrenderIn{Fence: g, Attempt: f.id})
		if err != nil {
			if out, err = f.outlast(ctx, g, rec, holder, err); err != nil {
				return err
			}
		}
		proof = &out.Evidence
	}
	out, err := contract.Permit.Execute(ctx, contract.ControlQueue, fmt.Sprintf("generation %d may run on %s", g.Generation, holder), contract.PermitIn{
		Fence: g, Host: holder, Attempt: f.id, Evidence: proof,
	})
	if err != nil {
		return err
	}
	f.handedBack(out.Record)
	return nil
}

// outlast waits for the probation of a target that was permitted and does not answer: the old host is sealed like any target,
// and waits W on its own clock. Nothing shorter proves that the target never started it [C13].
func (f *failover) outlast(ctx workflow.Context, g contract.Fence, rec model.Record, holder model.HostID, why error) (contract.EvidenceOut, error) {
	if rec.Mode != model.ModeProbation && rec.Mode != model.ModeLeased || rec.Terms.Wait() == 0 {
		return contract.EvidenceOut{}, why
	}
	if _, err := contract.Seal.Execute(ctx, contract.HostQueue(holder), "seal "+string(holder), contract.SealIn{Fence: g, Attempt: f.id}); err != nil {
		return contract.EvidenceOut{}, err
	}
	a := contract.AwaitLease
	a.Options.StartToCloseTimeout = 2*rec.Terms.Wait() + time.Minute
	return a.Execute(ctx, contract.HostQueue(holder), fmt.Sprintf("wait %s until the probation of %s has run out", rec.Terms.Wait(), rec.PermitHost), contract.AwaitLeaseIn{
		Fence: g, Attempt: f.id, Wait: rec.Terms.Wait(),
	})
}

func (f *failover) handedBack(rec model.Record) {
	f.saw(rec)
	f.out.HandedBackTo, f.out.HandedBackGeneration = rec.PermitHost, rec.Permitted
	f.out.PermittedTo = ""
}

// lookUp tells the parent what the record holds, after it refused us.
func (f *failover) lookUp(ctx workflow.Context) {
	out, err := contract.ReadRecord.Execute(ctx, contract.ControlQueue, "who may run it?", f.fence())
	if err != nil {
		f.log.Warn("the record could not be read", "error", err)
		return
	}
	f.saw(out.Record)
}
