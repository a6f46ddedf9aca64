package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/urfave/cli/v2"

	"understudy/internal/contract"
	"understudy/internal/model"
)

var (
	noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	db1  = model.VMRef{Name: "db1", UUID: "8a3c1d6e-0f5b-4c7a-9d2e-1b6f5a4c3d2e"}
)

// desk is a person at a terminal, with a control plane that answers as told.
type desk struct {
	env
	stdout, stderr bytes.Buffer
	plane          *plane
	dialed         int
	cancel         context.CancelFunc
	ctx            context.Context
}

func sit(t *testing.T) *desk {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	d := &desk{plane: &plane{}, ctx: ctx, cancel: cancel}
	d.env = env{
		in: strings.NewReader(""), out: &d.stdout, err: &d.stderr, who: "kim@console", tick: time.Millisecond, redraw: time.Millisecond,
		size: func() (int, int) { return 120, 30 }, keys: func(context.Context) (<-chan byte, func()) { return nil, func() {} },
		now: func() time.Time { return noon },
		connect: func(context.Context, target) (service, error) {
			d.dialed++
			return d.plane, nil
		},
	}
	return d
}

func (d *desk) run(args ...string) int {
	d.stdout.Reset()
	d.stderr.Reset()
	return d.main(d.ctx, append([]string{"understudy"}, args...), processes()...)
}

func (d *desk) answer(t *testing.T) map[string]any {
	var v map[string]any
	require.NoError(t, json.Unmarshal(d.stdout.Bytes(), &v), d.stdout.String())
	return v
}

func processes() []*cli.Command {
	return []*cli.Command{{Name: "server", Usage: "stands for the real one", Action: func(*cli.Context) error { return context.DeadlineExceeded }}}
}

// plane answers from fields; a nil function is a question nobody should have asked, and panics.
type plane struct {
	service
	find      func(string) (contract.DescribeOut, error)
	describe  func() (contract.DescribeOut, error)
	list      []contract.DescribeOut
	listErr   error
	hosts     []contract.HostWatchState
	locate    func(vm string, on model.HostID) (model.DomainFacts, model.HostID, error)
	ensure    func(contract.ProtectSpec) (contract.DescribeOut, error)
	failover  func(contract.FailoverRequestIn) (contract.FailoverRequestOut, error)
	timeline  contract.FailoverOut
	unprotect func(contract.UnprotectIn) (contract.UnprotectOut, error)
	inspect   func(model.HostID) (contract.InspectOut, error)
	points    func(model.HostID) ([]contract.PointView, error)
	marks     func(model.HostID, contract.MarksIn) (contract.MarksOut, error)
	setStart  func(model.VMRef, contract.SetStartIn) error
	explain   contract.ExplainOut
	conclude  func(contract.FailoverOrder) (contract.FailoverBrief, error)
	replicate func(context.Context) (contract.PointSummary, error)
	setPolicy func(model.Policy) (contract.DescribeOut, error)
	progress  *contract.ReplicateProgress
}

func (p *plane) Close() {}
func (p *plane) Find(_ context.Context, vm string) (contract.DescribeOut, error) {
	return p.find(vm)
}
func (p *plane) Describe(context.Context, string) (contract.DescribeOut, error) { return p.describe() }
func (p *plane) Explain(context.Context, model.VMRef) (contract.ExplainOut, error) {
	return p.explain, nil
}
func (p *plane) List(context.Context) ([]contract.DescribeOut, error)     { return p.list, p.listErr }
func (p *plane) Overview(context.Context) ([]contract.DescribeOut, error) { return p.list, p.listErr }
func (p *plane) Settle(context.Context)                                   {}
func (p *plane) Hosts(context.Context) ([]contract.HostWatchState, error) { return p.hosts, nil }
func (p *plane) Servers(context.Context) (int, error)                     { return 1, nil }
func (p *plane) Host(_ context.Context, h model.HostID) (contract.HostWatchState, error) {
	for _, s := range p.hosts {
		if s.Facts.Host == h {
			return s, nil
		}
	}
	return contract.HostWatchState{}, model.Fail(model.NotFound, nil, "no such host is known").WithHost(h)
}
func (p *plane) Locate(_ context.Context, vm string, on model.HostID) (model.DomainFacts, model.HostID, error) {
	return p.locate(vm, on)
}
func (p *plane) EnsureProtected(_ context.Context, s contract.ProtectSpec) (contract.DescribeOut, error) {
	return p.ensure(s)
}
func (p *plane) Progress(context.Context, model.VMRef) (*contract.ReplicateProgress, error) {
	return p.progress, nil
}
func (p *plane) RequestFailover(_ context.Context, _ model.VMRef, in contract.FailoverRequestIn) (contract.FailoverRequestOut, error) {
	return p.failover(in)
}
func (p *plane) Conclude(_ context.Context, _ model.VMRef, in contract.FailoverOrder) (contract.FailoverBrief, error) {
	return p.conclude(in)
}
func (p *plane) FailoverTimeline(context.Context, model.VMRef, string) (contract.FailoverOut, error) {
	return p.timeline, nil
}
func (p *plane) Unprotect(_ context.Context, _ model.VMRef, in contract.UnprotectIn) (contract.UnprotectOut, error) {
	return p.unprotect(in)
}
func (p *plane) Inspect(_ context.Context, h model.HostID, _ contract.InspectIn) (contract.InspectOut, error) {
	return p.inspect(h)
}
func (p *plane) SetStart(_ context.Context, vm model.VMRef, in contract.SetStartIn) (contract.DescribeOut, error) {
	return contract.DescribeOut{}, p.setStart(vm, in)
}
func (p *plane) Marks(_ context.Context, h model.HostID, in contract.MarksIn) (contract.MarksOut, error) {
	return p.marks(h, in)
}
func (p *plane) Points(_ context.Context, h model.HostID, _ model.VMRef) ([]contract.PointView, error) {
	return p.points(h)
}
func (p *plane) ReplicateNow(ctx context.Context, _ model.VMRef, _ contract.ReplicateNowIn) (contract.PointSummary, error) {
	return p.replicate(ctx)
}
func (p *plane) SetPolicy(_ context.Context, _ model.VMRef, in model.Policy) (contract.DescribeOut, error) {
	return p.setPolicy(in)
}

func heard(hosts ...model.HostID) []contract.HostWatchState {
	var out []contract.HostWatchState
	for _, h := range hosts {
		out = append(out, contract.HostWatchState{Facts: model.HostFacts{Host: h, AgentVersion: "v1"}, LastHeard: noon, Since: noon.Add(-time.Hour)})
	}
	return out
}

// protected is db1 with one verified point of a minute ago and a write of 2.1 s ago that is in none.
func protected() contract.DescribeOut {
	policy := model.DefaultPolicy()
	write := noon.Add(-2100 * time.Millisecond)
	ref := model.PointRef{Generation: 1, Seq: 42}
	return contract.DescribeOut{
		Spec: contract.ProtectSpec{VM: db1, Primary: "host-a", Standby: "host-b", Policy: policy},
		State: contract.ProtectState{
			Phase: model.PhaseProtected, Accepted: true, Primary: "host-a", Standby: "host-b", StandbyReady: true, Policy: policy, Generation: 1,
			Committed: ref, Points: 7, Unreplicated: &write, HostSilent: map[string]bool{},
			Cadence: model.Cadence{Interval: 12500 * time.Millisecond, NextAt: noon.Add(10 * time.Second), Reason: "slack is used up in 10 s", Binding: model.BindingSlack},
			Recent: []contract.PointSummary{{
				PointRef: ref, TakenAt: noon.Add(-61 * time.Second), VerifiedAt: noon.Add(-time.Minute), Consistency: model.CrashConsistent,
				Modes: "delta", DirtyBytes: 655360, SentBytes: 81920, StallMS: 12.5, CycleMS: 950,
			}},
			Totals: contract.Totals{Cycles: 7, SentBytes: 1 << 20, DirtyBytes: 4 << 20, MaxExposure: 14 * time.Second},
		},
	}
}
