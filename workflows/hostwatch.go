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
	"understudy/internal/model"
)

const (
	watchRound  = time.Minute // of a host that is heard; then its facts are fresh again
	probeRound  = time.Second // of a silent one: the answer is what counts
	probeFirst  = time.Second
	probeLast   = 10 * time.Second
	brokenPause = 5 * time.Second
	watchRounds = 500 // of a run
)

// watch is one run of HostWatch.
type watch struct {
	host   model.HostID
	st     *contract.HostWatchState
	log    log.Logger
	agents int // agent processes that reported in this run
	rounds int
	missed int // probes of the silent host
}

// HostWatch says whether a host lives. A long activity on the host's own queue is its heartbeat: when it is not taken or
// its heartbeats stop, the host counts as silent, and everybody who uses it is told; a dead or hung detector is not a
// verdict, so that is all it says. While the host is silent it is probed by short rounds, slower and slower; an agent that
// starts ends the wait at once.
func HostWatch(ctx workflow.Context, in contract.HostWatchIn) error {
	w := &watch{host: in.Host, st: in.State, log: log.With(workflow.GetLogger(ctx), "host", string(in.Host))}
	if w.st == nil {
		w.st = &contract.HostWatchState{Facts: model.HostFacts{Host: in.Host}, Since: workflow.Now(ctx), Protections: []string{}}
	}
	if err := w.listen(ctx); err != nil {
		return err
	}
	for ctx.Err() == nil {
		w.show(ctx)
		if w.mustContinueAsNew(ctx) {
			w.drain(ctx)
			return workflow.NewContinueAsNewError(ctx, contract.HostWatchName, contract.HostWatchIn{Host: w.host, State: w.st})
		}
		if w.st.Silent {
			w.probe(ctx)
		} else {
			w.round(ctx, watchRound)
		}
	}
	return ctx.Err()
}

func (w *watch) mustContinueAsNew(ctx workflow.Context) bool {
	info := workflow.GetInfo(ctx)
	due := w.rounds >= watchRounds || info.GetContinueAsNewSuggested() || info.GetCurrentHistoryLength() > runEvents
	return due && workflow.AllHandlersFinished(ctx)
}

// round watches for a while. A new agent process ends it: the old one's heartbeats will never come.
func (w *watch) round(ctx workflow.Context, d time.Duration) {
	w.rounds++
	round, cancel := workflow.WithCancel(ctx)
	defer cancel()
	known := w.agents
	f := contract.Watch.Start(round, contract.HostQueue(w.host), "watch for "+d.String(), contract.WatchIn{Host: w.host, For: d})
	if err := workflow.Await(ctx, func() bool { return f.Raw().IsReady() || w.agents != known }); err != nil || !f.Raw().IsReady() {
		return
	}
	out, err := f.Get(ctx)
	var late *temporal.TimeoutError
	switch {
	case err == nil:
		w.heard(ctx, out.Facts)
	case errors.As(err, &late):
		w.silence(ctx, timeoutWords(late))
	case ctx.Err() != nil:
	default: // it answers, but cannot watch
		w.log.Warn("the watch failed", "error", err)
		w.sleep(ctx, brokenPause, "the watch failed: "+sentence(err))
	}
}

func (w *watch) probe(ctx workflow.Context) {
	wait := min(probeFirst<<min(w.missed, 10), probeLast)
	w.missed++
	if w.sleep(ctx, wait, fmt.Sprintf("probe %d of the silent host", w.missed)) {
		w.round(ctx, probeRound)
	}
}

// sleep ends early when an agent reports; true when it did not.
func (w *watch) sleep(ctx workflow.Context, d time.Duration, summary string) bool {
	known := w.agents
	woken, err := workflow.AwaitWithOptions(ctx, workflow.AwaitOptions{Timeout: d, TimerOptions: workflow.TimerOptions{Summary: summary}},
		func() bool { return w.agents != known })
	return err == nil && !woken
}

func (w *watch) heard(ctx workflow.Context, facts model.HostFacts) {
	now := workflow.Now(ctx)
	same := facts.Instance != "" && facts.Instance == w.st.Facts.Instance
	facts.Host = w.host
	w.st.Facts, w.st.LastHeard, w.missed = facts, now, 0
	if !w.st.Silent {
		return
	}
	if same {
		w.st.FalseAlarms++ // the very same process went on living
	}
	detail := fmt.Sprintf("heard again after %s", now.Sub(w.st.Since).Round(time.Second))
	w.st.Silent, w.st.Since = false, now
	w.tell(ctx, contract.SigHostRecovered, w.st.Protections, contract.HostSignalIn{Host: w.host, At: now, Detail: detail, Facts: &facts})
}

func (w *watch) silence(ctx workflow.Context, why string) {
	if w.st.Silent {
		return
	}
	now := workflow.Now(ctx)
	w.st.Silent, w.st.Since = true, now
	w.tell(ctx, contract.SigHostSuspect, w.st.Protections, contract.HostSignalIn{Host: w.host, At: now, Detail: why, Facts: &w.st.Facts})
}

// tell signals protections beside the loop; one that is gone is forgotten.
func (w *watch) tell(ctx workflow.Context, s contract.Signal[contract.HostSignalIn], uuids []string, in contract.HostSignalIn) {
	for _, uuid := range slices.Clone(uuids) {
		sent := s.SendExternal(ctx, contract.ProtectID(uuid), in)
		workflow.Go(ctx, func(ctx workflow.Context) {
			if err := sent.Get(ctx, nil); notThere(err) {
				w.detach(uuid)
			} else if err != nil {
				w.log.Warn("a protection could not be told", "protection", uuid, "error", err)
			}
		})
	}
}

// loadWords is how busy a host was, for a person who asks whether it is dead or slow.
func loadWords(f *model.HostFacts) string {
	if f == nil || f.Load == nil {
		return ""
	}
	words := fmt.Sprintf("load %.1f on %d CPUs, CPU %.0f %%", f.Load.Load1, f.CPUs, 100*f.Load.CPU)
	if f.Load.PressureIO >= 0 {
		words += fmt.Sprintf(", waiting for disks %.0f %%", 100*f.Load.PressureIO)
	}
	return words
}

func (w *watch) detach(uuid string) {
	w.st.Protections = slices.DeleteFunc(w.st.Protections, func(s string) bool { return s == uuid })
}

func (w *watch) onAgentStarted(ctx workflow.Context, facts model.HostFacts) {
	w.agents++
	w.heard(ctx, facts)
}

// onAttach: who comes while the host is silent is told at once.
func (w *watch) onAttach(ctx workflow.Context, in contract.AttachIn) {
	if i, found := slices.BinarySearch(w.st.Protections, in.VMUUID); !found {
		w.st.Protections = slices.Insert(w.st.Protections, i, in.VMUUID)
	}
	if w.st.Silent {
		w.tell(ctx, contract.SigHostSuspect, []string{in.VMUUID}, contract.HostSignalIn{Host: w.host, At: workflow.Now(ctx), Detail: "silent since " + w.st.Since.UTC().Format(time.RFC3339), Facts: &w.st.Facts})
	}
}

func (w *watch) inboxes(ctx workflow.Context) []inbox {
	return []inbox{
		inboxOf(ctx, contract.SigAgentStarted, w.onAgentStarted),
		inboxOf(ctx, contract.SigAttach, w.onAttach),
		inboxOf(ctx, contract.SigDetach, func(_ workflow.Context, in contract.AttachIn) { w.detach(in.VMUUID) }),
	}
}

func (w *watch) drain(ctx workflow.Context) {
	for _, box := range w.inboxes(ctx) {
		for box.take(ctx, box.ch) {
			continue
		}
	}
}

func (w *watch) listen(ctx workflow.Context) error {
	boxes := w.inboxes(ctx)
	workflow.Go(ctx, func(ctx workflow.Context) {
		sel := workflow.NewSelector(ctx)
		for _, box := range boxes {
			sel.AddReceive(box.ch, func(workflow.ReceiveChannel, bool) { box.take(ctx, box.ch) })
		}
		for {
			sel.Select(ctx)
		}
	})
	return errors.Join( // registration only: these errors never carry a type
		contract.QueryHost.Handle(ctx, func() (contract.HostWatchState, error) { return *w.st, nil }),
		contract.UpdInspect.Handle(ctx, func(ctx workflow.Context, in contract.InspectIn) (contract.InspectOut, error) {
			return w.inspect(ctx, in)
		}, nil),
		contract.UpdMarks.Handle(ctx, func(ctx workflow.Context, in contract.MarksIn) (contract.MarksOut, error) {
			return askHost(ctx, w, contract.ListMarks, in)
		}, nil),
		contract.UpdPoints.Handle(ctx, func(ctx workflow.Context, in contract.PointsIn) (contract.PointsOut, error) {
			return askHost(ctx, w, contract.Points, in)
		}, nil),
	)
}

// askHost runs a question of people on the host, and refuses at once when nobody is there to answer.
func askHost[In, Out any](ctx workflow.Context, w *watch, a contract.Activity[In, Out], in In) (Out, error) {
	if w.st.Silent {
		var none Out
		return none, contract.Refuse(model.Unreachable, contract.Detail{Host: w.host, Try: "understudy hosts"},
			"%s is not heard since %s: its agent is down or cut off", w.host, w.st.Since.UTC().Format(time.RFC3339))
	}
	out, err := a.Execute(ctx, contract.HostQueue(w.host), "asked by a person", in)
	return out, surface(err, "", w.host)
}

// inspect asks the host and, for the doctor, the fence devices that reach it: they hang on the control plane.
func (w *watch) inspect(ctx workflow.Context, in contract.InspectIn) (contract.InspectOut, error) {
	if in.Fence {
		out, err := contract.FenceCheck.Execute(ctx, contract.ControlQueue, "do the fence devices answer?", contract.FenceCheckIn{Host: w.host})
		return contract.InspectOut{Facts: w.st.Facts, Checks: out.Checks}, surface(err, "", w.host)
	}
	if !in.Doctor || w.st.Silent {
		return askHost(ctx, w, contract.Inspect, in)
	}
	fence := contract.FenceCheck.Start(ctx, contract.ControlQueue, "do the fence devices answer?", contract.FenceCheckIn{Host: w.host})
	out, err := askHost(ctx, w, contract.Inspect, in)
	checks, fenceErr := fence.Get(ctx)
	if fenceErr != nil {
		checks.Checks = []model.Check{{Name: "fence", Detail: sentence(fenceErr), Try: "look at the log of `understudy server`"}}
	}
	out.Checks = append(out.Checks, checks.Checks...)
	return out, err
}

func (w *watch) show(ctx workflow.Context) {
	word := "heard"
	if w.st.Silent {
		word = "silent"
	}
	workflow.SetCurrentDetails(ctx, fmt.Sprintf("## %s: %s since %s\n\n- protections that use it: %d\n- false alarms: %d\n- agent %s, libvirt %s, QEMU %s\n- store: %s free of %s\n",
		w.host, word, w.st.Since.UTC().Format(time.DateTime), len(w.st.Protections), w.st.FalseAlarms,
		w.st.Facts.AgentVersion, w.st.Facts.Libvirt, w.st.Facts.QEMU, size(w.st.Facts.StoreFree), size(w.st.Facts.StoreTotal)))
}
