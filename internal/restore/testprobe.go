package restore

import (
	"context"
	"strings"
	"time"

	"understudy/internal/hypervisor"
	"understudy/internal/model"
)

const (
	commandLimit = 10 * time.Second // for one try of a command
	agentGrace   = 45 * time.Second // for a guest's agent that no probe asks for
)

// TestProbe waits until the copy answers: all probes pass, or without probes its guest agent answers, or it stays up. A TCP
// probe cannot reach a copy without network: it is left out, and that is said.
func (r *Restorer) TestProbe(ctx context.Context, t Test) (Answer, error) {
	var by, notes []string
	asked, at := 0, r.o.Now().UTC()
	for _, p := range t.Probes {
		if p.Kind == "tcp" {
			notes = append(notes, "the TCP probe of "+p.Address+" was left out: the copy has no network")
			continue
		}
		asked++
		if err := r.pass(ctx, t, p); err != nil {
			return Answer{}, err
		}
		by = append(by, p.Kind)
	}
	if asked == 0 {
		answered, err := r.agentOf(ctx, t)
		if err != nil {
			return Answer{}, err
		}
		if !answered { // it ran from the beginning
			return Answer{At: at, By: "runs", Detail: join("", append(notes, r.ends(t)...))}, nil
		}
		by = append(by, "agent")
	}
	return Answer{At: r.o.Now().UTC(), By: strings.Join(by, ", "), Detail: join("", append(notes, r.ends(t)...))}, nil
}

// up fails when the copy does not run any more.
func (r *Restorer) up(ctx context.Context, t Test) error {
	dom, found, err := r.lookup(ctx, t.uuid())
	if err == nil && (!found || dom.State != hypervisor.Running) {
		err = r.fail(model.NotRunning, t.VM, nil, "the copy did not stay up: it is %s%s", state(dom, found), r.lastWords(t))
	}
	return err
}

func (r *Restorer) pass(ctx context.Context, t Test, p model.Probe) error {
	limit := p.Limit()
	end := time.Now().Add(limit) // a duration of this process
	for {
		if err := r.up(ctx, t); err != nil {
			return err
		}
		var err error
		switch p.Kind {
		case "agent":
			err = r.hv.PingGuest(ctx, t.uuid(), pingTimeout)
		case "command":
			err = r.command(ctx, t, p.Command)
		default:
			return r.fail(model.InvalidArgument, t.VM, nil, "a probe of the unknown kind %q", p.Kind)
		}
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Now().After(end):
			return r.fail(model.NotRunning, t.VM, err, "the %s probe did not pass within %s%s", p.Kind, limit, r.lastWords(t))
		}
		if err := r.wait(ctx); err != nil {
			return err
		}
	}
}

// command runs a probe's command, without a shell.
func (r *Restorer) command(ctx context.Context, t Test, argv []string) error {
	if len(argv) == 0 {
		return r.fail(model.InvalidArgument, t.VM, nil, "a command probe without a command")
	}
	return runProbe(ctx, argv, "UNDERSTUDY_VM="+t.copyName(), "UNDERSTUDY_UUID="+t.uuid(), "UNDERSTUDY_CONSOLE="+r.testFile(t, "console"), "UNDERSTUDY_TEST=1")
}

// agentOf asks a guest agent that may be there. Without one the copy must stay up for as long as was asked.
func (r *Restorer) agentOf(ctx context.Context, t Test) (bool, error) {
	began := time.Now()
	agent := true // may be there
	for {
		if err := r.up(ctx, t); err != nil {
			return false, err
		}
		if agent {
			err := r.hv.PingGuest(ctx, t.uuid(), pingTimeout)
			if err == nil {
				return true, nil
			}
			agent = model.KindOf(err) != model.Unsupported && time.Since(began) < agentGrace
		}
		if !agent && time.Since(began) >= t.For {
			return false, nil
		}
		if err := r.wait(ctx); err != nil {
			return false, err
		}
	}
}
