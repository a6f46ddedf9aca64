package workflows

import (
	"time"

	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
	"understudy/internal/decide/cadence"
	"understudy/internal/model"
)

const (
	schema       = 1
	runCycles    = 100 // a run ends after so many cycles, so that histories stay about 300 kB
	runEvents    = 4000
	maxRecent    = 20
	maxAlerts    = 20
	maxTextBytes = 2000 // of an error kept in the state
)

// protection is one run of ProtectVM. What matters is in in.State; the rest is of this run only and may be lost.
type protection struct {
	in  contract.ProtectIn
	st  *contract.ProtectState
	vm  model.VMRef
	log log.Logger

	setupErr error // preflight refused; await-ready answers with it
	shown    shown // search attributes as last set
	listing  listing

	wake        bool                // something changed: the loop plans again
	look        bool                // observe before the next decision
	forceCAN    bool                // asked for by operations
	cycles      int                 // of this run
	interrupted bool                // the running stage must not be waited for
	cancelCycle workflow.CancelFunc // nil between cycles
	nextOrigin  *time.Time          // oldest write seen since the open capture
	lastEnd     error               // of the last cycle

	wanted    int             // number of the cycle that people wait for: it begins after their request
	resync    string          // why that cycle does not trust the bitmaps; empty when it does
	started   int             // cycles
	ended     int             // cycles
	learned   learned         // kept in the state between runs
	unsure    time.Duration   // of the planned cycle: what depends on the bytes
	looks     int             // at the VM before this start
	gears     cadence.Gearbox // with the cycle that was decided
	stages    bool            // the primary's agent has no other gear
	short     bool            // the cycle that was decided comes too late
	putOff    float64         // share of the RPO up to which its start could be put off
	due       time.Time       // when the cycle under way was to start; zero between cycles
	settling  bool            // what is told now follows a capture at once
	settledAt time.Time       // of the newest point
	givenBack bool            // an abandoned capture's writes are in the counters again

	bindAt  time.Time // binding failed; not before this
	takeUps int       // that failed in a row
	judging bool      // the judge coroutine lives
	waiting bool      // for the release of a lease
	blind   int       // looks that failed in a row

	moveErr error // why the switchover that somebody asked for does not take place

	unprotect *contract.UnprotectIn
	retired   *contract.UnprotectOut
}

// ProtectVM protects one VM for ever. Its state machine:
//
//	setup ──ok──> Seeding ──first point──> Protected <──> Degraded (late, failing, standby silent or not ready)
//	  │refused                                │  ^ └─> Suspended (paused by a person, VM off) ──> back
//	  v                              trigger  v  │ done: roles swapped, Degraded until the old host was demoted, then Seeding
//	workflow fails                        FailingOver ── rolled back, failed ──> Failed (until a host is heard or a person acts)
//	unprotect, from anywhere but FailingOver ──> retire ──> workflow completes
func ProtectVM(ctx workflow.Context, in contract.ProtectIn) error {
	p := open(ctx, in)
	p.listing.on = since(ctx, listedInMemo)
	if err := p.listen(ctx); err != nil {
		return err
	}
	if !p.st.Accepted {
		if err := p.setup(ctx); err != nil {
			return p.refuseAll(ctx, err)
		}
	}
	return p.run(ctx)
}

func open(ctx workflow.Context, in contract.ProtectIn) *protection {
	st := in.State
	if st == nil {
		st = &contract.ProtectState{
			Schema: schema, Phase: model.PhaseSeeding, Primary: in.Spec.Primary, Standby: in.Spec.Standby,
			Policy: in.Spec.Policy, NextSeq: 1,
		}
	}
	in.State = nil // kept once
	known := recall(st.Learned)
	st.Learned = nil
	if st.HostSilent == nil {
		st.HostSilent = map[string]bool{}
	}
	if st.Links == nil {
		st.Links = map[string]string{}
	}
	return &protection{
		in: in, st: st, vm: in.Spec.VM, learned: known, gears: known.Gears,
		log: log.With(workflow.GetLogger(ctx), "vm", in.Spec.VM.Name),
	}
}

// run is the loop: whatever is most urgent, once, and again.
func (p *protection) run(ctx workflow.Context) error {
	workflow.Go(ctx, p.watchExposure)
	p.suspect(ctx)       // a run may begin with a silent primary
	p.standbySilent(ctx) // or standby
	for ctx.Err() == nil {
		p.wake, p.interrupted = false, false
		p.refresh(ctx)
		switch {
		case p.unprotect != nil && !p.failingOver():
			return p.retire(ctx)
		case p.failingOver():
			p.awaitFailover(ctx)
		case p.st.Rediscover:
			p.rediscover(ctx)
		case p.st.TakeUp && !p.silent(p.st.Primary):
			p.takeUp(ctx)
		case p.mayRelease(ctx):
			p.letGo(ctx)
		case p.mayRestart(ctx):
			p.restart(ctx)
		case p.st.Trigger != nil && p.blocked() == "":
			p.startFailover(ctx)
		case p.mustContinueAsNew(ctx):
			if err := p.continueAsNew(ctx); err != nil {
				return err
			}
		case p.st.Failed != "":
			p.idle(ctx, "a person is needed")
		case !p.st.StandbyReady:
			p.prepareStandby(ctx)
		default:
			p.attachAgain(ctx)
			p.keep(ctx)
			p.bind(ctx)
			p.bootDue(ctx)
			p.step(ctx)
		}
	}
	p.settleInFlight(ctx)
	return ctx.Err()
}

// step is one turn of observe, decide, cycle or rest.
func (p *protection) step(ctx workflow.Context) {
	if p.st.InFlight != nil && !p.settleInFlight(ctx) {
		p.rest(ctx, p.decide(ctx))
		return
	}
	if p.look && !p.observe(ctx) {
		p.rest(ctx, p.decide(ctx))
		return
	}
	c := p.decide(ctx)
	if c.Skip || c.StartIn > 0 {
		if disturbed := !p.rest(ctx, c); disturbed || p.look {
			return
		}
		p.due = c.NextAt
	}
	p.cycle(ctx)
}

// mustContinueAsNew: on the server's advice, by force, or on our own bound, but only between cycles, with nobody waiting
// for an answer and no takeover open.
func (p *protection) mustContinueAsNew(ctx workflow.Context) bool {
	info := workflow.GetInfo(ctx)
	due := p.forceCAN || p.cycles >= runCycles || info.GetContinueAsNewSuggested() || info.GetCurrentHistoryLength() > runEvents
	return due && workflow.AllHandlersFinished(ctx) && (p.st.Trigger == nil || p.blocked() != "") && p.unprotect == nil
}

// continueAsNew drains the signals first: one that is left unread is lost. When one of them wants something done, the run
// goes on for it.
func (p *protection) continueAsNew(ctx workflow.Context) error {
	p.drain(ctx)
	if p.st.Trigger != nil && p.blocked() == "" || !workflow.AllHandlersFinished(ctx) {
		return nil
	}
	p.keepLearned()
	p.in.State = p.st
	return workflow.NewContinueAsNewError(ctx, contract.ProtectVMName, p.in)
}

// refuseAll lets await-ready answer before the workflow fails with the same error.
func (p *protection) refuseAll(ctx workflow.Context, err error) error {
	p.setupErr = err
	_ = workflow.Await(ctx, func() bool { return workflow.AllHandlersFinished(ctx) })
	return err
}

func (p *protection) failingOver() bool { return p.st.Failover != nil && p.st.Failover.Outcome == "" }

func (p *protection) queue(h model.HostID) string { return contract.HostQueue(h) }

func (p *protection) fence() contract.Fence {
	return contract.Fence{VM: p.vm, Generation: p.st.Generation}
}

// refuse makes an error of this protection for people.
func (p *protection) refuse(kind model.Kind, try, format string, args ...any) error {
	return contract.Refuse(kind, contract.Detail{VM: p.vm.Name, Try: try}, format, args...)
}
