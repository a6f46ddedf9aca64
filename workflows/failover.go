package workflows

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/decide/election"
	"understudy/internal/model"
)

const (
	startTries  = 3 // points that a failover tries to start, newest first
	stayRunning = 3 * time.Second

	dismantleTries = 2 // of an undo that the VM's way back waits for; what is left is taken away when that host is used again
)

// failover is one takeover, from the choice of a point to a running VM.
//
//	step         does                                          undo        idempotent because
//	elect        newest verified point in the target's store   –           reads only
//	fit          the target has what the point needs           –           reads only; asked of the expected point beside elect
//	claim        control plane's record: seal 1                hand back   same generation and attempt
//	seal         target's floor: seal 2                        hand back   same generation and attempt
//	prove        evidence that the old VM is off, after both   hand back   bound to the attempt; what is off stays off
//	salvage      a last point of the dead VM's own disks       –           its number is reserved; never fatal
//	turn         the recovery plan's order, of many VMs        release     the slot ends by itself too
//	permit       the record lets the target run it             hand back   same generation and host
//	materialize  bootable overlay on the point                 dismantle   named by the generation; under way since prove or permit
//	start        define and start                              dismantle   a running one is success
//	confirm      it stays running                              –           reads only
//	probe        the guest answers                             –           reads only
//	hold         only if asked: a person decides               –           waits
//	———————————————— point of no return ————————————————
//	commit       probation is over: mode sole                  –           one way
//	publish      child-finished to the protection              –           only the first one counts
//
// Hand back (handback.go) burns one more generation and permits it to the old holder; a number is never used again. Where
// the target may have been permitted, it must give the VM up durably first. Nothing that can hurt the old copy happens
// before the claim, and no evidence counts that is older than the seals.
type failover struct {
	in     contract.FailoverIn
	id     string
	log    log.Logger
	out    contract.FailoverOut
	undo   saga
	points []contract.PointView
	record model.Record
	// grantor is the control plane's own; sealed are the terms that the target reported.
	grantor *model.Grantor
	sealed  model.LeaseTerms
	// admitted: the recovery has given this start a slot, or will.
	admitted bool
	paused   time.Time // of a switchover: when the order to pause was given

	// What is heard while it runs (conclude.go).
	word      *model.Evidence // of a person, that the old host is off
	wordAt    time.Time       // when it came
	forced    bool            // not to wait for a lease
	abandoned *contract.FailoverOrder
	decision  *contract.FailoverOrder // of one that is held
	heard     bool                    // the old host, again
	lost      bool                    // the target
	unsure    bool                    // it was started, and nobody could say whether it runs

	overlap overlap
}

// FailoverVM takes a VM over. It answers its parent by signal, because the parent may have continued as new; its own
// error is the untouched error of the step that failed.
func FailoverVM(ctx workflow.Context, in contract.FailoverIn) (contract.FailoverOut, error) {
	f := &failover{
		in: in, id: contract.FailoverID(in.VM.UUID, in.Generation),
		log:  log.With(workflow.GetLogger(ctx), "vm", in.VM.Name, "generation", uint64(in.Generation)),
		out:  contract.FailoverOut{Generation: in.Generation, Steps: []contract.FailoverStep{}},
		word: in.Confirmed, forced: in.Force,
	}
	f.overlap.on = since(ctx, overlapSteps)
	workflow.Go(ctx, f.listen)
	if err := contract.QueryFailover.Handle(ctx, func() (contract.FailoverOut, error) { return f.out, nil }); err != nil {
		return f.out, err
	}
	err := f.takeOver(ctx)
	if err != nil {
		f.takeBack(ctx, err)
	} else {
		f.out.Outcome = contract.OutcomeDone
	}
	f.release(ctx, err == nil)
	f.publish(ctx)
	return f.out, surface(err, in.VM.Name, in.To)
}

func (f *failover) takeOver(ctx workflow.Context) error {
	for _, s := range append(f.plannedSteps(), []takeoverStep{
		{"elect", f.elect},
		{"fit", f.fit},
		{"claim", f.claim},
		{"seal", f.seal},
		{"prove", f.prove},
		{"salvage", f.salvage},
		{"turn", f.admission},
		{"permit", f.permit},
		{"boot", f.boot},
		{"hold", f.hold},
		{"commit", f.commit},
	}...) {
		if f.skips(s.name) {
			continue
		}
		if err := f.step(ctx, s.name, s.do); err != nil {
			return err
		}
	}
	return nil
}

func (f *failover) skips(step string) bool {
	switch step {
	case "salvage":
		return f.in.Salvage == nil
	case "turn":
		return f.in.Place == nil
	case "hold":
		return !f.in.Hold
	case "commit":
		return f.mode() != model.ModeProbation
	}
	return false
}

type takeoverStep struct {
	name string
	do   func(workflow.Context) (string, error)
}

// step runs one line of the timeline.
func (f *failover) step(ctx workflow.Context, name string, do func(workflow.Context) (string, error)) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	began := workflow.Now(ctx)
	detail, err := do(ctx)
	f.note(ctx, contract.FailoverStep{Name: name, At: began, Took: workflow.Now(ctx).Sub(began), Detail: detail, Error: clip(sentence(err))})
	return err
}

func (f *failover) elect(ctx workflow.Context) (string, error) {
	f.expectFit(ctx)
	if err := f.listPoints(ctx); err != nil {
		return "", err
	}
	if err := f.choose(f.in.Seq, 0); err != nil {
		return "", contract.RefuseFailure(err)
	}
	age := workflow.Now(ctx).Sub(f.out.Point.TakenAt).Round(100 * time.Millisecond)
	return fmt.Sprintf("point %d, taken %s ago", f.out.Point.Seq, age), nil
}

func (f *failover) choose(want, below model.Seq) error {
	candidates := make([]election.Candidate, 0, len(f.points))
	for _, v := range f.points {
		candidates = append(candidates, election.Candidate{PointRef: v.PointRef, TakenAt: v.TakenAt, VerifiedAt: v.VerifiedAt})
	}
	best, err := election.Choose(candidates, want, below)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(f.points, func(v contract.PointView) bool { return v.PointRef == best.PointRef })
	f.out.Point = summaryOf(f.points[i])
	return nil
}

// claim closes the control plane for every older generation. A refusal means that somebody else's takeover is recorded:
// nothing of ours is there to take back.
func (f *failover) claim(ctx workflow.Context) (string, error) {
	f.undo.add(handBackName, f.handBack)
	out, err := contract.Claim.Execute(ctx, contract.ControlQueue, fmt.Sprintf("claim generation %d", f.in.Generation), contract.ClaimIn{
		Fence: f.fence(), Target: f.in.To, Attempt: f.id, Expect: f.in.Expect,
	})
	if err != nil {
		if final(err) {
			f.lookUp(ctx)
			if f.record.Attempt != f.id || f.record.Claimed != f.in.Generation {
				f.undo.withdraw(handBackName)
			}
		}
		return "", err
	}
	f.saw(out.Record)
	f.grantor = out.Grantor
	return fmt.Sprintf("%s held generation %d", out.Record.PermitHost, out.Record.Permitted), nil
}

func (f *failover) seal(ctx workflow.Context) (string, error) {
	out, err := contract.Seal.Execute(ctx, contract.HostQueue(f.in.To), fmt.Sprintf("floor %d on %s", f.in.Generation, f.in.To), contract.SealIn{Fence: f.fence(), Attempt: f.id})
	f.sealed = out.Terms
	return fmt.Sprintf("floor was %d", out.Floor), err
}

func (f *failover) permit(ctx workflow.Context) (string, error) {
	if f.lost { // as long as it is not permitted, the VM goes back without a wait
		return "", f.refuse(model.Unreachable, "%s fell silent before it was permitted to start %s", f.in.To, f.in.VM.Name)
	}
	f.layOut(ctx)
	out, err := contract.Permit.Execute(ctx, contract.ControlQueue, fmt.Sprintf("generation %d may run on %s", f.in.Generation, f.in.To), contract.PermitIn{
		Fence: f.fence(), Host: f.in.To, Attempt: f.id, Evidence: f.out.Evidence, Mode: f.mode(), Terms: f.sealed,
	})
	if err != nil {
		return "", err
	}
	f.saw(out.Record)
	f.out.PermittedTo = f.in.To
	return "", nil
}

// boot starts the elected point, or an older one when it does not come up. A point that a person chose is not replaced.
func (f *failover) boot(ctx workflow.Context) (string, error) {
	f.undo.withdraw(clearAwayName)
	f.undo.addPatient("dismantle", dismantleTries, f.dismantle)
	for try := 1; ; try++ {
		detail, err := f.startPoint(ctx)
		if err == nil {
			if !f.in.Hold {
				f.undo.pointOfNoReturn()
			}
			return detail, nil
		}
		if !anotherPointMayHelp(err) || try == startTries || f.in.Seq != 0 {
			return "", err
		}
		failed := f.out.Point
		if f.choose(0, failed.Seq) != nil {
			return "", err // there is no older one
		}
		older := f.out.Point
		f.out.Point = failed
		if undoErr := f.step(ctx, "dismantle", func(ctx workflow.Context) (string, error) {
			return fmt.Sprintf("point %d did not start: %s", failed.Seq, sentence(err)), f.dismantle(ctx)
		}); undoErr != nil {
			return "", err
		}
		f.out.Point = older
	}
}

func (f *failover) startPoint(ctx workflow.Context) (string, error) {
	point, queue := f.out.Point.PointRef, contract.HostQueue(f.in.To)
	if err := f.materialize(ctx, point); err != nil {
		return "", err
	}
	err := f.step(ctx, "start", func(ctx workflow.Context) (string, error) {
		_, err := contract.Start.Execute(ctx, queue, "start "+f.in.VM.Name, contract.StartIn{
			Fence: f.fence(), Point: point, Mode: f.mode(), Grantors: f.control(), Action: f.in.Action, Networks: f.in.Networks,
		})
		f.ran(ctx, err)
		return "", err
	})
	if err != nil {
		return "", err
	}
	err = f.step(ctx, "confirm", f.confirm)
	if err == nil && len(f.in.Probes) > 0 && !f.unsure {
		err = f.step(ctx, "probe", f.probe)
	}
	return fmt.Sprintf("from point %d", point.Seq), err
}

// confirm waits until the VM has stayed up for a moment. When the agent is lost after the start and nobody else could run
// the VM, it goes forward, and says so.
func (f *failover) confirm(ctx workflow.Context) (string, error) {
	out, err := contract.Confirm.Execute(ctx, contract.HostQueue(f.in.To), "does it stay up?", contract.ConfirmIn{Fence: f.fence(), For: stayRunning})
	switch {
	case err != nil && ctx.Err() == nil && unclear(err) && !f.mayGoBack():
		f.unsure = true
		return "started, but not confirmed: " + sentence(err), nil
	case err != nil:
		return "", err
	case !out.Running:
		return "", contract.Refuse(model.NotRunning, contract.Detail{VM: f.in.VM.Name, Host: f.in.To, Try: "understudy points " + f.in.VM.Name},
			"%s did not stay up on %s: %s", f.in.VM.Name, f.in.To, out.Detail)
	}
	return out.Detail, nil
}

// dismantle takes materialize and start back; it is done again on each retry, and a missing copy is success.
func (f *failover) dismantle(ctx workflow.Context) error {
	_, err := contract.Dismantle.Execute(ctx, contract.HostQueue(f.in.To), "take the started copy away", contract.StartIn{Fence: f.fence(), Point: f.out.Point.PointRef})
	return err
}

// anotherPointMayHelp: not when the host is lost, the generation is stale, or somebody cancelled.
func anotherPointMayHelp(err error) bool {
	if temporal.IsCanceledError(err) || errors.Is(err, workflow.ErrCanceled) {
		return false
	}
	k := kindOf(err)
	return k != model.Unreachable && k != model.StaleGeneration
}

// publish tells the parent, also when this workflow was cancelled.
func (f *failover) publish(ctx workflow.Context) {
	f.show(ctx)
	if f.in.Parent == "" {
		return
	}
	free, cancel := workflow.NewDisconnectedContext(ctx)
	defer cancel()
	in := contract.ChildFinishedIn{WorkflowID: f.id, Out: f.out}
	if err := contract.SigChildFinished.SendExternal(free, f.in.Parent, in).Get(free, nil); err != nil {
		f.log.Error("the protection could not be told", "parent", f.in.Parent, "error", err)
	}
}

// mode is what the new generation begins in: on probation the control plane alone can take the VM back, also when the target
// dies in mid-failover. Without a guard nobody would stop it, so it is sole.
func (f *failover) mode() model.LeaseMode {
	if f.sealed.GuardLevel >= 1 && f.grantor != nil {
		return model.ModeProbation
	}
	return model.ModeSole
}

func (f *failover) control() []model.Grantor {
	if f.grantor == nil {
		return nil
	}
	return []model.Grantor{*f.grantor}
}

// commit ends the probation, at the control plane first. Should it not come through, the protection commits later: the VM runs.
func (f *failover) commit(ctx workflow.Context) (string, error) {
	if f.unsure || f.lost { // the control plane may have to take it back
		return "later: " + string(f.in.To) + " is not heard", nil
	}
	in := contract.SetModeIn{Fence: f.fence(), Host: f.in.To, Mode: model.ModeSole, Terms: f.sealed}
	if _, err := contract.SetMode.Execute(ctx, contract.ControlQueue, "probation is over", in); err != nil {
		return "later: " + sentence(err), nil
	}
	if _, err := contract.Hold.Execute(ctx, contract.HostQueue(f.in.To), "probation is over", contract.HoldIn{
		Fence: f.fence(), Mode: model.ModeSole, Grantors: f.control(), Action: f.in.Action,
	}); err != nil {
		return "later: " + sentence(err), nil
	}
	return "", nil
}

func (f *failover) fence() contract.Fence {
	return contract.Fence{VM: f.in.VM, Generation: f.in.Generation}
}

func (f *failover) saw(r model.Record) { f.record, f.out.Record = r, &r }
