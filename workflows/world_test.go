package workflows

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"

	"understudy/internal/contract"
	"understudy/internal/lease"
	"understudy/internal/model"
)

const (
	hostA = model.HostID("host-a")
	hostB = model.HostID("host-b")
)

const steadyRate = 60e3 // bytes/s of a guest that writes all the time

var theVM = model.VMRef{Name: "db1", UUID: "11111111-2222-3333-4444-555555555555"}

// fakeHost is a libvirt host with its agent and store, as far as workflows see them.
type fakeHost struct {
	id      model.HostID
	cutOff  bool // its agent takes no work, whatever else lives there
	off     bool // no power
	running bool // a copy of the VM runs
	stopped bool // it was stopped for a takeover
	frozen  bool // its guard stopped the copy at a deadline
	bound   bool // the copy has a deadline
	seen    model.LeaseMode
	floor   model.Generation
	points  []contract.PointView
	paused  bool // the guest stands still
	left    bool // a VM's disks were left here
	atRest  string
	test    int // number of the test copy that runs; 0 for none
}

// world is two hosts, a control plane with real generation records, and a guest that writes. Every activity of the
// contract is served by it, under its exact signature; faults are put in its way by name.
type world struct {
	reg      contract.Registry
	now      func() time.Time
	began    time.Time
	t        *testing.T
	env      *testsuite.TestWorkflowEnvironment
	mu       sync.Mutex
	hosts    map[model.HostID]*fakeHost
	records  *lease.Records
	fence    bool // the fence device works
	witness  bool // what a witness says of a host that is cut off
	calls    []string
	faults   map[string][]fault
	hooks    map[string]func(context.Context) // runs inside the activity, without the lock
	idle     bool                             // the guest writes nothing; otherwise something every second
	pace     time.Duration                    // from a capture to the next write; a second when it is not set
	captured time.Time
	updates  int
	taken    []contract.SnapshotIn
	together []model.Seq // captured and sent in one
	built    []contract.VerifyIn
	sent     []contract.ReplicateIn
	pruned   []contract.PruneIn
	dirty    int64                // of a capture; at least 1 MiB
	slow     func() time.Duration // what moving a capture seems to take
	started  []model.PointRef
	permits  []*model.Evidence
	// unreplicated is what a returning host had written and nobody else has; slowBoot is what a test copy takes to answer.
	unreplicated int64
	slowBoot     time.Duration
	readable     bool // a dead VM's disks can be read by its host's agent
	// stall is how long a capture holds the guest up, in ms; cpu what sending it takes.
	stall  func(contract.SnapshotIn) float64
	cpu    func(contract.ReplicateIn) time.Duration
	guards int // level of every host's guard; 0: there are no leases
	// unwatched hosts have no watch yet; attaching counts per host.
	unwatched map[model.HostID]bool
	attaching map[model.HostID]int
	memo      memo
	moved     *model.Grantor // where the control plane grants after it moved
}

// fault is what an activity answers instead of, or (lost) after, doing its work.
type fault struct {
	err  error
	lost bool
}

func newWorld(t *testing.T) *world {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(silentLog{})
	env := suite.NewTestWorkflowEnvironment()
	env.SetTestTimeout(time.Minute)
	env.SetStartTime(time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC))
	w := bareWorld(t, env.Now)
	w.env, w.began = env, env.Now()
	Register(env)
	w.serveOn(env)
	w.keepMemo()
	env.OnSignalExternalWorkflow(mock.Anything, mock.Anything, mock.Anything, contract.SigAttach.Name, mock.Anything).Return(w.attached).Maybe()
	env.OnSignalExternalWorkflow(mock.Anything, mock.Anything, mock.Anything, contract.SigDetach.Name, mock.Anything).Return(nil).Maybe()
	return w
}

// attached answers who asks a host's watch to tell him.
func (w *world) attached(_, watch, _, _ string, _ any) error {
	for h := range w.hosts {
		if contract.HostWatchID(h) != watch {
			continue
		}
		w.attaching[h]++
		if w.unwatched[h] {
			return &serviceerror.NotFound{Message: "workflow execution not found"}
		}
	}
	return nil
}

func bareWorld(t *testing.T, now func() time.Time) *world {
	t.Helper()
	records, err := lease.OpenRecords(memory(t), now)
	require.NoError(t, err)
	return &world{
		t: t, now: now, records: records, fence: true,
		hosts:  map[model.HostID]*fakeHost{hostA: {id: hostA, running: true}, hostB: {id: hostB}},
		faults: map[string][]fault{}, hooks: map[string]func(context.Context){},
		unwatched: map[model.HostID]bool{}, attaching: map[model.HostID]int{},
	}
}

func (w *world) serveOn(r contract.Registry) {
	w.reg = r
	w.serveControl()
	w.serveStages()
	w.serveHosts()
	w.serveMoves()
	w.serveLeases()
	w.serveProbes()
}

func (w *world) failNext(name string, errs ...error) {
	for _, err := range errs {
		w.faults[name] = append(w.faults[name], fault{err: err})
	}
}

// loseReply lets the work be done and its answer be lost; further attempts are not heard of either.
func (w *world) loseReply(name string, attempts int) {
	w.faults[name] = append(w.faults[name], fault{err: timeout(enums.TIMEOUT_TYPE_START_TO_CLOSE), lost: true})
	w.timeOut(name, attempts-1)
}

func (w *world) timeOut(name string, attempts int) {
	for range attempts {
		w.failNext(name, timeout(enums.TIMEOUT_TYPE_START_TO_CLOSE))
	}
}

func timeout(t enums.TimeoutType) error { return temporal.NewTimeoutError(t, nil) }

func refusal(k model.Kind) error {
	return temporal.NewNonRetryableApplicationError("simulated "+string(k), string(k), nil, contract.Detail{VM: theVM.Name, Try: "try this"})
}

func wire(err error) error {
	if err == nil {
		return nil
	}
	return temporal.NewNonRetryableApplicationError(err.Error(), string(model.KindOf(err)), nil, contract.Detail{})
}

func serve[In, Out any](w *world, a contract.Activity[In, Out], do func(h *fakeHost, in In) (Out, error)) {
	a.Register(w.reg, func(ctx context.Context, in In) (Out, error) { return visit(ctx, w, a, in, do) })
}

// visit is an activity's way: it is counted, its hook runs, its host may be away, and a fault may be in its way.
func visit[In, Out any](ctx context.Context, w *world, a contract.Activity[In, Out], in In, do func(h *fakeHost, in In) (Out, error)) (Out, error) {
	var none Out
	w.mu.Lock()
	host := hostOf(activity.GetInfo(ctx).TaskQueue)
	hook := w.hooks[a.Name]
	w.calls = append(w.calls, strings.TrimSuffix(a.Name+"@"+string(host), "@"))
	w.mu.Unlock()
	if hook != nil {
		hook(ctx)
		if ctx.Err() != nil {
			return none, temporal.NewCanceledError()
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.hosts[host]
	if h != nil && (h.cutOff || h.off) {
		return none, timeout(enums.TIMEOUT_TYPE_SCHEDULE_TO_START)
	}
	f := fault{}
	if q := w.faults[a.Name]; len(q) > 0 {
		f, w.faults[a.Name] = q[0], q[1:]
	}
	if f.err != nil && !f.lost {
		return none, f.err
	}
	out, err := do(h, in)
	if f.lost {
		return none, f.err
	}
	return out, err
}

func hostOf(queue string) model.HostID {
	s := strings.TrimPrefix(queue, "understudy-host-")
	if s == queue {
		return ""
	}
	return model.HostID(strings.TrimSuffix(strings.TrimSuffix(s, "-ctl"), "-bulk"))
}

// admit is the floor's check.
func (h *fakeHost) admit(f contract.Fence) error {
	if f.Generation < h.floor {
		return refusal(model.StaleGeneration)
	}
	h.floor = f.Generation
	return nil
}

func (w *world) serveControl() {
	ctx := context.Background()
	record := func(r model.Record, err error) (contract.RecordOut, error) {
		return contract.RecordOut{Record: r, Grantor: w.grantor()}, wire(err)
	}
	serve(w, contract.SetMode, func(_ *fakeHost, in contract.SetModeIn) (contract.RecordOut, error) {
		return record(w.records.SetMode(ctx, in.VM.UUID, in.Generation, in.Host, in.Mode, in.Terms))
	})
	serve(w, contract.BeginRecord, func(_ *fakeHost, in contract.PermitIn) (contract.RecordOut, error) {
		return record(w.records.Begin(ctx, in.VM, in.Generation, in.Host))
	})
	serve(w, contract.Claim, func(_ *fakeHost, in contract.ClaimIn) (contract.RecordOut, error) {
		return record(w.records.Claim(ctx, in.VM.UUID, in.Generation, in.Expect, in.Target, in.Attempt))
	})
	serve(w, contract.Permit, func(_ *fakeHost, in contract.PermitIn) (contract.RecordOut, error) {
		w.permits = append(w.permits, in.Evidence)
		return record(w.records.Permit(ctx, in.VM.UUID, lease.Permission{
			Generation: in.Generation, Host: in.Host, Attempt: in.Attempt, Evidence: in.Evidence, Mode: in.Mode, Terms: in.Terms,
		}))
	})
	serve(w, contract.Keep, func(_ *fakeHost, in contract.KeepIn) (contract.None, error) {
		return contract.None{}, wire(w.records.Keep(ctx, in.VM.UUID, in.Standby, in.Policy))
	})
	serve(w, contract.ListRecords, func(*fakeHost, contract.None) (contract.RecordsOut, error) {
		all, err := w.records.List(ctx)
		return contract.RecordsOut{Records: all}, wire(err)
	})
	serve(w, contract.ReadRecord, func(_ *fakeHost, in contract.Fence) (contract.RecordOut, error) {
		return record(w.records.Read(ctx, in.VM.UUID))
	})
	serve(w, contract.DropRecord, func(_ *fakeHost, in contract.Fence) (contract.None, error) {
		return contract.None{}, wire(w.records.Drop(ctx, in.VM.UUID))
	})
	serve(w, contract.FencePower, func(_ *fakeHost, in contract.FenceIn) (contract.EvidenceOut, error) {
		if !w.fence {
			return contract.EvidenceOut{}, refusal(model.FenceUnconfirmed)
		}
		w.hosts[in.Host].off, w.hosts[in.Host].running = true, false
		return w.evidence(model.EvidenceFenced, in.Generation)
	})
}

func (w *world) evidence(k model.EvidenceKind, g model.Generation) (contract.EvidenceOut, error) {
	return contract.EvidenceOut{Evidence: model.Evidence{Kind: k, Generation: g, At: w.now()}}, nil
}

func (w *world) serveHosts() {
	serve(w, contract.Preflight, func(h *fakeHost, in contract.PreflightIn) (contract.PreflightOut, error) {
		return contract.PreflightOut{
			Facts: model.HostFacts{Host: h.id, LinkAddress: string(h.id) + ":7450", GrantorID: "g-" + string(h.id), Terms: w.terms()}, VM: in.VM, Disks: []model.Disk{{Target: "vda"}}, Running: h.running,
		}, nil
	})
	serve(w, contract.Observe, func(h *fakeHost, in contract.ObserveIn) (model.Observation, error) {
		return w.look(h), h.admit(in.Fence)
	})
	serve(w, contract.Retire, func(*fakeHost, contract.RetireIn) (contract.RetireOut, error) {
		return contract.RetireOut{Leftovers: []string{}}, nil
	})
	serve(w, contract.Witness, func(_ *fakeHost, in contract.WitnessIn) (contract.WitnessOut, error) {
		return contract.WitnessOut{Alive: w.witness, Detail: "asked " + string(in.Host)}, nil
	})
	serve(w, contract.Seal, func(h *fakeHost, in contract.SealIn) (contract.SealOut, error) {
		old := h.floor
		return contract.SealOut{Floor: old, Running: h.running, Terms: w.terms()}, h.admit(in.Fence)
	})
	serve(w, contract.Surrender, func(h *fakeHost, in contract.SurrenderIn) (contract.EvidenceOut, error) {
		if err := h.admit(in.Fence); err != nil {
			return contract.EvidenceOut{}, err
		}
		if in.Paused && h.running && !h.paused {
			return contract.EvidenceOut{}, refusal(model.Conflict)
		}
		h.stopped = (h.stopped || h.running) && !in.Demote
		h.left = h.left || in.Demote
		h.running, h.paused = false, false
		return w.evidence(model.EvidenceSurrendered, in.Generation)
	})
	serve(w, contract.SalvageDisks, func(h *fakeHost, in contract.SalvageIn) (contract.SalvageOut, error) {
		switch {
		case h.admit(in.Fence) != nil:
			return contract.SalvageOut{}, refusal(model.StaleGeneration)
		case h.running:
			return contract.SalvageOut{}, refusal(model.Conflict)
		case !w.readable:
			return contract.SalvageOut{}, refusal(model.Unsupported)
		}
		return contract.SalvageOut{TakenAt: w.now(), Stats: []contract.DiskStats{{Target: "vda", ChangedBytes: 4096}}}, nil
	})
	serve(w, contract.Restart, func(h *fakeHost, in contract.RestartIn) (contract.RestartOut, error) {
		for _, other := range w.hosts {
			if other.writes() && other != h {
				w.t.Errorf("a second copy is started on %s while one runs on %s", h.id, other.id)
			}
		}
		out := contract.RestartOut{StartedAt: w.now(), Restarted: !h.running}
		h.running = true
		return out, h.admit(in.Fence)
	})
	serve(w, contract.TakeUp, func(h *fakeHost, in contract.TakeUpIn) (contract.TakeUpOut, error) {
		if err := h.admit(in.Fence); err != nil {
			return contract.TakeUpOut{}, err
		}
		out := contract.TakeUpOut{Started: h.stopped && !h.running}
		for _, other := range w.hosts {
			if out.Started && other.writes() {
				w.t.Errorf("a second copy is started on %s while one runs on %s", h.id, other.id)
			}
		}
		h.running, h.stopped, h.paused, h.frozen = h.running || out.Started, false, false, false
		return out, nil
	})
	serve(w, contract.Materialize, func(h *fakeHost, in contract.MaterializeIn) (contract.MaterializeOut, error) {
		return contract.MaterializeOut{Point: in.Point, Disks: []model.Disk{{Target: "vda"}}}, h.admit(in.Fence)
	})
	serve(w, contract.Start, func(h *fakeHost, in contract.StartIn) (contract.StartOut, error) {
		for _, other := range w.hosts {
			if other.writes() && other != h {
				w.t.Errorf("a second copy is started on %s while one runs on %s", h.id, other.id)
			}
		}
		h.running, h.frozen = true, false
		h.bound, h.seen = in.Mode == model.ModeProbation, in.Mode
		w.started = append(w.started, in.Point)
		return contract.StartOut{StartedAt: w.now()}, h.admit(in.Fence)
	})
	serve(w, contract.Confirm, func(h *fakeHost, _ contract.ConfirmIn) (contract.ConfirmOut, error) {
		return contract.ConfirmOut{Running: h.running}, nil
	})
	serve(w, contract.Dismantle, func(h *fakeHost, in contract.StartIn) (contract.None, error) {
		h.running = false
		return contract.None{}, h.admit(in.Fence)
	})
	serve(w, contract.Inspect, func(h *fakeHost, _ contract.InspectIn) (contract.InspectOut, error) {
		return contract.InspectOut{Facts: model.HostFacts{Host: h.id, AtRest: h.atRest}}, nil
	})
}

// --- telling a story ------------------------------------------------------------------------------------------------------

func policy() model.Policy {
	p := model.DefaultPolicy()
	p.RPO, p.RecoverInPlace = 20*time.Second, 0 // most stories are of VMs that move
	return p
}

func protectIn(p model.Policy) contract.ProtectIn {
	return contract.ProtectIn{Spec: contract.ProtectSpec{VM: theVM, Primary: hostA, Standby: hostB, Policy: p}}
}

// at does something at a moment after the start.
func (w *world) at(d time.Duration, do func()) { w.env.RegisterDelayedCallback(do, d) }

// protect runs a protection until the story ends it at the given moment.
func (w *world) protect(in contract.ProtectIn, end time.Duration) {
	w.env.SetStartWorkflowOptions(startOptions())
	for i := range time.Duration(100) {
		w.at(end*(i+1)/101, func() { w.state() }) // and holds the memo against it
	}
	w.at(end, w.env.CancelWorkflow)
	w.env.ExecuteWorkflow(ProtectVM, in)
	require.True(w.t, w.env.IsWorkflowCompleted())
}

func (w *world) state() contract.ProtectState {
	w.t.Helper()
	v, err := w.env.QueryWorkflow(contract.QueryDescribe.Name)
	require.NoError(w.t, err)
	var out contract.DescribeOut
	require.NoError(w.t, v.Get(&out))
	w.honest(out.State)
	return out.State
}

func (w *world) record() model.Record {
	w.t.Helper()
	r, err := w.records.Read(context.Background(), theVM.UUID)
	require.NoError(w.t, err)
	return r
}

func (w *world) count(call string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, c := range w.calls {
		if c == call || strings.HasPrefix(c, call+"@") {
			n++
		}
	}
	return n
}

func signal[T any](w *world, s contract.Signal[T], v T) { w.env.SignalWorkflow(s.Name, v) }

// answer of an update.
type answer[Out any] struct {
	Out      Out
	Err      error
	Refused  bool
	Accepted bool
	Done     bool
}

func update[In, Out any](w *world, u contract.Update[In, Out], in In) *answer[Out] {
	a := &answer[Out]{}
	w.updates++
	w.env.UpdateWorkflow(u.Name, fmt.Sprintf("%s-%d", u.Name, w.updates), &testsuite.TestUpdateCallback{
		OnAccept: func() { a.Accepted = true },
		OnReject: func(err error) { a.Refused, a.Err = true, err },
		OnComplete: func(v any, err error) {
			a.Done, a.Err = true, err
			if out, ok := v.(Out); ok {
				a.Out = out
			}
		},
	}, in)
	return a
}

func (w *world) crashVM() {
	w.hosts[hostA].running = false
	signal(w, contract.SigVMEvent, contract.VMEventIn{Host: hostA, Event: model.Event{VM: theVM, Kind: model.EventCrashed, Detail: "killed"}})
}

// loseHost: power loss of the primary, noticed by its watch.
func (w *world) loseHost() {
	w.hosts[hostA].off, w.hosts[hostA].running = true, false
	signal(w, contract.SigHostSuspect, contract.HostSignalIn{Host: hostA, Detail: "no heartbeats"})
}

// cutHost: the primary runs on, but nobody reaches it.
func (w *world) cutHost() {
	w.hosts[hostA].cutOff = true
	signal(w, contract.SigHostSuspect, contract.HostSignalIn{Host: hostA, Detail: "no heartbeats"})
}

func (w *world) hostIsBack(h model.HostID) {
	w.hosts[h].cutOff, w.hosts[h].off = false, false
	signal(w, contract.SigHostRecovered, contract.HostSignalIn{Host: h, Facts: &model.HostFacts{Host: h, LinkAddress: string(h) + ":7450"}})
}

func alertNames(st contract.ProtectState) []string {
	var out []string
	for _, a := range st.Alerts {
		out = append(out, a.Name)
	}
	return out
}

type silentLog struct{}

func (silentLog) Debug(string, ...any) {}
func (silentLog) Info(string, ...any)  {}
func (silentLog) Warn(string, ...any)  {}
func (silentLog) Error(string, ...any) {}

func startOptions() client.StartWorkflowOptions {
	return client.StartWorkflowOptions{ID: contract.ProtectID(theVM.UUID), TaskQueue: contract.ControlQueue}
}
