package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/model"
)

const leastSalvage = 2 * time.Second // of what is left of the budget; less is not worth a try

// maySalvage is leave to read the dead VM's disks before it moves. Its point has a number of its own, so that it cannot meet
// what a cycle had begun.
func (p *protection) maySalvage(t contract.FailoverTrigger) *contract.Salvage {
	st := p.st
	if st.Policy.Salvage < leastSalvage || t.Seq != 0 || t.Planned != nil || st.Committed.IsZero() || p.silent(st.Primary) {
		return nil
	}
	s := &contract.Salvage{
		Seq: st.NextSeq, Budget: st.Policy.Salvage, LinkAddress: st.Links[string(st.Standby)],
		Compression: p.compression(), Tier: st.Policy.Tier, RPO: st.Policy.RPO,
	}
	st.NextSeq++
	return s
}

// keepSalvaged builds on the point that was made of the VM's disks when the failover itself came to nothing: it is the newest
// one of the standby.
func (p *protection) keepSalvaged(out contract.FailoverOut) {
	if out.Salvaged == nil || out.Salvaged.Seq <= p.st.Committed.Seq {
		return
	}
	p.st.Committed = *out.Salvaged
	p.st.ForceResync = "the newest point was made of the stopped VM's disks"
}

// salvage reads the last writes off the disks of the VM that was just proved off, where its own agent did the proving: a
// failover then loses nothing. It is bounded, and whatever goes wrong the failover goes on with what the standby has.
func (f *failover) salvage(ctx workflow.Context) (string, error) {
	s := f.in.Salvage
	if ev := f.out.Evidence; s == nil || ev == nil || ev.Kind != model.EvidenceSurrendered {
		return "nothing can be read: the old host's agent does not answer", nil
	}
	work, cancel := workflow.WithCancel(ctx)
	defer cancel()
	said, err, done := "", error(nil), false
	workflow.Go(work, func(ctx workflow.Context) {
		said, err = f.readLast(ctx, *s)
		done = true
	})
	_, waitErr := workflow.AwaitWithOptions(ctx, workflow.AwaitOptions{
		Timeout: s.Budget, TimerOptions: workflow.TimerOptions{Summary: "the salvage may take so long"},
	}, func() bool { return done })
	if waitErr != nil {
		return "", waitErr
	}
	if !done {
		// What is under way is ended and waited for, so that no point appears under a choice that was made.
		cancel()
		if err := workflow.Await(ctx, func() bool { return done }); err != nil {
			return "", err
		}
		if err != nil {
			err = contract.Refuse(model.Refused, contract.Detail{}, "it took longer than %s", s.Budget)
		}
	}
	if err != nil {
		said = "given up: " + sentence(err)
	}
	if f.out.Salvaged != nil {
		if err := f.choose(f.in.Seq, 0); err != nil {
			return said, contract.RefuseFailure(err)
		}
		return said, nil
	}
	if again := f.electAgain(ctx); again != nil {
		f.log.Warn("the points could not be listed after the salvage", "error", again)
	}
	if f.out.Salvaged == nil { // nobody waits for it: it is dropped with the next staging anyway
		ref := model.PointRef{Generation: f.in.Generation, Seq: s.Seq}
		contract.Discard.Start(ctx, contract.HostQueue(f.in.To), "drop what was not proved", contract.PointIn{Fence: f.fence(), Point: ref})
	}
	return said, nil
}

func (f *failover) readLast(ctx workflow.Context, s contract.Salvage) (string, error) {
	began := workflow.Now(ctx)
	parent, err := f.newest(ctx)
	if err != nil {
		return "", err
	}
	point := model.PointRef{Generation: f.in.Generation, Seq: s.Seq}
	work := contract.SalvageDisks
	work.Options.StartToCloseTimeout = s.Budget + time.Second
	work.Options.ScheduleToStartTimeout = min(work.Options.ScheduleToStartTimeout, s.Budget/2)
	work.Options.WaitForCancellation = true
	out, err := work.Execute(ctx, contract.HostQueue(f.in.From), "read the last writes off the dead VM's disks", contract.SalvageIn{
		Fence: f.fence(), Point: point, Parent: parent, Standby: f.in.To, LinkAddress: s.LinkAddress, Compression: s.Compression,
		Tier: s.Tier, RPO: s.RPO, Budget: s.Budget,
	})
	if err != nil {
		return "", err
	}
	if s.Budget-workflow.Now(ctx).Sub(began) < 0 {
		return "", contract.Refuse(model.Refused, contract.Detail{VM: f.in.VM.Name, Host: f.in.From}, "no time was left to prove what was read")
	}
	proved, err := contract.Verify.Execute(ctx, contract.BulkQueue(f.in.To), fmt.Sprintf("point %d of the dead VM's disks", s.Seq), contract.VerifyIn{
		Fence: f.fence(), Point: point, Parent: parent, Primary: f.in.From, TakenAt: out.TakenAt, Consistency: model.CrashConsistent,
		Disks: out.Disks, Stats: out.Stats, KeepLast: model.MaxKeep, PostponeMerges: true,
	})
	if err != nil {
		return "", err
	}
	if f.overlap.on { // no need to ask what the target has now
		f.points = append(f.points, salvaged(f.in.From, point, parent, out, proved))
		f.out.Salvaged = &point
	}
	var changed int64
	for _, d := range out.Stats {
		changed += d.ChangedBytes
	}
	return fmt.Sprintf("point %d holds all that the VM wrote: %s more than point %d", s.Seq, size(changed), parent.Seq), nil
}

// salvaged is the point as the target would list it.
func salvaged(from model.HostID, point, parent model.PointRef, out contract.SalvageOut, proved contract.VerifyOut) contract.PointView {
	v := contract.PointView{
		PointRef: point, Parent: parent.Seq, Primary: from, TakenAt: out.TakenAt, VerifiedAt: proved.VerifiedAt, Consistency: model.CrashConsistent,
	}
	sent := map[string]int64{}
	for _, s := range out.Stats {
		sent[s.Target] = s.SentBytes
	}
	for _, d := range out.Disks {
		v.Disks = append(v.Disks, model.PointDisk{Target: d.Target, Mode: d.Mode, Reason: d.Reason, DirtyBytes: d.DirtyBytes, SentBytes: sent[d.Target]})
	}
	return v
}

// newest asks again: a point may have been committed between the election and the seal, after which none can be.
func (f *failover) newest(ctx workflow.Context) (model.PointRef, error) {
	if err := f.pointsNow(ctx); err != nil {
		return model.PointRef{}, err
	}
	var newest model.PointRef
	for _, v := range f.points {
		if v.Seq > newest.Seq {
			newest = v.PointRef
		}
	}
	return newest, nil
}

func (f *failover) askPoints(ctx workflow.Context) contract.Future[contract.PointsOut] {
	return contract.Points.Start(ctx, contract.HostQueue(f.in.To), "points to start from", contract.PointsIn{VM: f.in.VM})
}

// pointsNow takes the list that was asked for beside the proof, where there is one.
func (f *failover) pointsNow(ctx workflow.Context) error {
	if listed := f.overlap.listed; listed != nil {
		if out, err := listed.Get(ctx); err == nil {
			f.points = out.Points
			return nil
		}
	}
	return f.listPoints(ctx)
}

func (f *failover) listPoints(ctx workflow.Context) error {
	out, err := f.askPoints(ctx).Get(ctx)
	if err == nil {
		f.points = out.Points
	}
	return err
}

// electAgain takes in what the salvage made, also when its answer was lost.
func (f *failover) electAgain(ctx workflow.Context) error {
	if err := f.listPoints(ctx); err != nil {
		return err
	}
	for _, v := range f.points {
		if v.Seq == f.in.Salvage.Seq {
			ref := v.PointRef
			f.out.Salvaged = &ref
		}
	}
	return f.choose(f.in.Seq, 0)
}
