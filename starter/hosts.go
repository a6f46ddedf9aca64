package starter

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"golang.org/x/sync/errgroup"

	"understudy/internal/contract"
	"understudy/internal/model"
)

// A host answers an inspection in a second; two attempts of the activity and a queue nobody polls bound the rest.
const inspectTimeout = 60 * time.Second

// Libvirt is asked about each VM.
const marksTimeout = 5 * time.Minute

func aboutHost(h model.HostID) subject {
	return subject{host: h, gone: "no such host is known: its agent never reported", try: "understudy hosts"}
}

// Hosts returns what is known of every host whose agent ever reported, by name.
func (c *Client) Hosts(ctx context.Context) ([]contract.HostWatchState, error) {
	runs, err := c.running(ctx, contract.HostWatchName)
	if err != nil {
		return nil, err
	}
	ids := make([]string, 0, len(runs))
	for _, r := range runs {
		ids = append(ids, r.GetExecution().GetWorkflowId())
	}
	out, err := askAll(ctx, c, contract.QueryHost, ids)
	sort.Slice(out, func(i, j int) bool { return out[i].Facts.Host < out[j].Facts.Host })
	return out, err
}

// Host returns what is known of one host.
func (c *Client) Host(ctx context.Context, h model.HostID) (contract.HostWatchState, error) {
	return ask(ctx, c, contract.QueryHost, contract.HostWatchID(h), aboutHost(h))
}

// Inspect asks a host about itself and its VMs.
func (c *Client) Inspect(ctx context.Context, h model.HostID, in contract.InspectIn) (contract.InspectOut, error) {
	return tellHost(ctx, c, contract.UpdInspect, h, in)
}

// Marks lists what is left on a host, after it has removed what is named.
func (c *Client) Marks(ctx context.Context, h model.HostID, in contract.MarksIn) (contract.MarksOut, error) {
	bounded, cancel := context.WithTimeout(ctx, marksTimeout)
	defer cancel()
	return tell(bounded, c, contract.UpdMarks, contract.HostWatchID(h), in, aboutHost(h))
}

// Points lists the points of a VM in the store of a host, oldest first.
func (c *Client) Points(ctx context.Context, h model.HostID, vm model.VMRef) ([]contract.PointView, error) {
	out, err := tellHost(ctx, c, contract.UpdPoints, h, contract.PointsIn{VM: vm})
	return out.Points, err
}

func tellHost[In, Out any](ctx context.Context, c *Client, u contract.Update[In, Out], h model.HostID, in In) (Out, error) {
	bounded, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	return tell(bounded, c, u, contract.HostWatchID(h), in, aboutHost(h))
}

// Locate finds the host that has a VM (by name or UUID), on one host or, when on is empty, by asking all that are heard.
func (c *Client) Locate(ctx context.Context, vm string, on model.HostID) (model.DomainFacts, model.HostID, error) {
	if on != "" {
		return c.locateOn(ctx, vm, on)
	}
	hosts, err := c.Hosts(ctx)
	if err != nil {
		return model.DomainFacts{}, "", err
	}
	if len(hosts) == 0 {
		return model.DomainFacts{}, "", model.Fail(model.NotFound, nil, "no host is known").WithVM(vm).
			WithTry("understudy agent on each libvirt host")
	}
	type hit struct {
		facts model.DomainFacts
		host  model.HostID
		err   error
	}
	hits := make([]hit, len(hosts))
	var g errgroup.Group
	g.SetLimit(parallel)
	for i, h := range hosts {
		g.Go(func() error {
			hits[i].host = h.Facts.Host
			if h.Silent {
				hits[i].err = model.Fail(model.Unreachable, nil, "it is silent").WithHost(h.Facts.Host)
				return nil
			}
			hits[i].facts, _, hits[i].err = c.locateOn(ctx, vm, h.Facts.Host)
			return nil
		})
	}
	_ = g.Wait() // errors are kept per host
	var found []hit
	var asked, failed []string
	for _, h := range hits {
		switch {
		case h.err == nil:
			found = append(found, h)
		case model.KindOf(h.err) == model.NotFound:
			asked = append(asked, string(h.host))
		case ctx.Err() != nil:
			return model.DomainFacts{}, "", ctx.Err()
		default:
			failed = append(failed, string(h.host))
		}
	}
	switch {
	case len(found) == 1:
		return found[0].facts, found[0].host, nil
	case len(found) > 1:
		return model.DomainFacts{}, "", model.Fail(model.Conflict, nil, "%s and %s both have a VM of this name", found[0].host, found[1].host).
			WithVM(vm).WithTry("--primary " + string(found[0].host))
	case len(asked) == 0:
		return model.DomainFacts{}, "", model.Fail(model.Unreachable, nil, "no host could be asked for it: %s", strings.Join(failed, ", ")).
			WithVM(vm).WithHost(model.HostID(failed[0])).WithTry("understudy hosts")
	case len(failed) > 0:
		return model.DomainFacts{}, "", model.Fail(model.NotFound, nil, "it is not on %s; these could not be asked: %s", strings.Join(asked, ", "), strings.Join(failed, ", ")).
			WithVM(vm).WithTry("understudy hosts")
	}
	return model.DomainFacts{}, "", model.Fail(model.NotFound, nil, "no host has a VM of this name or UUID (asked %s)", strings.Join(asked, ", ")).
		WithVM(vm).WithTry("virsh list --all on the host")
}

func (c *Client) locateOn(ctx context.Context, vm string, h model.HostID) (model.DomainFacts, model.HostID, error) {
	out, err := c.Inspect(ctx, h, contract.InspectIn{VM: vm})
	if err != nil {
		return model.DomainFacts{}, h, err
	}
	for _, d := range out.Domains {
		if d.VM.Name == vm || strings.EqualFold(d.VM.UUID, vm) {
			return d, h, nil
		}
	}
	return model.DomainFacts{}, h, model.Fail(model.NotFound, nil, "the host has no VM of this name or UUID").WithVM(vm).WithHost(h).
		WithTry("virsh list --all on the host")
}

// AgentStarted starts the watch of a host, or tells the running one that its agent is (again) there.
func (c *Client) AgentStarted(ctx context.Context, facts model.HostFacts) error {
	sendCtx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	id := contract.HostWatchID(facts.Host)
	_, err := c.t.SignalWithStartWorkflow(sendCtx, id, contract.SigAgentStarted.Name, facts, client.StartWorkflowOptions{
		ID: id, TaskQueue: contract.ControlQueue, WorkflowIDReusePolicy: enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		StaticSummary: fmt.Sprintf("watch of %s", facts.Host),
	}, contract.HostWatchName, contract.HostWatchIn{Host: facts.Host})
	return c.failure(ctx, err, aboutHost(facts.Host))
}

// Servers counts the server processes that took work from the control queue lately. A query alone cannot tell: where
// nothing is protected, there is nothing to ask.
func (c *Client) Servers(ctx context.Context) (int, error) {
	askCtx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	d, err := c.t.DescribeTaskQueue(askCtx, contract.ControlQueue, enumspb.TASK_QUEUE_TYPE_ACTIVITY)
	if err != nil {
		return 0, c.failure(ctx, err, subject{gone: "the control queue does not exist", try: "understudy server on the control host"})
	}
	n := 0
	for _, p := range d.GetPollers() {
		if time.Since(p.GetLastAccessTime().AsTime()) < pollPeriod {
			n++
		}
	}
	return n, nil
}

// pollPeriod is how long one poll lasts at most, with room for a slow machine.
const pollPeriod = 90 * time.Second
