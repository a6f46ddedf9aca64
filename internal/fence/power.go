package fence

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"understudy/internal/model"
)

// offLimit bounds all levels of one host together; the activity that waits has a little more.
const offLimit = 75 * time.Second

// Power switches hosts off by the devices of a file, and by the operator's command for what the file does not name or cannot
// confirm. Its methods are safe for concurrent use.
type Power struct {
	path    string
	command Command
	log     *slog.Logger

	mu    sync.Mutex
	last  Config // the newest file that could be read
	turns map[model.HostID]*queue
}

// queue is the power-offs of one host: one runs, and all who ask meanwhile share the next. They cannot share the running one:
// evidence must be younger than the seals of the takeover that asks.
type queue struct{ running, next *turn }

type turn struct {
	done   chan struct{}
	by     string
	detail string
	err    error
}

// Open reads the file at path; an empty one has no devices. command may be the zero Command.
func Open(path string, command Command, log *slog.Logger) (*Power, error) {
	p := &Power{path: path, command: command, log: log, turns: make(map[model.HostID]*queue)}
	if path == "" {
		return p, nil
	}
	c, err := load(path)
	if err != nil {
		return nil, model.Fail(model.InvalidArgument, err, "the fence configuration %s is refused", path).WithTry("understudy server --fence-config FILE")
	}
	p.last = c
	return p, nil
}

func load(path string) (Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return Config{}, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return Config{}, err
	}
	return Parse(data)
}

// config is the file as it is now: hosts come and go without a restart of the server. While it is damaged the last good one
// counts.
func (p *Power) config() (Config, error) {
	if p.path == "" {
		return Config{}, nil
	}
	c, err := load(p.path)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.log.Error("fence_config_refused", "error", err, "meaning", "the last good one counts")
		return p.last, err
	}
	p.last = c
	return c, nil
}

// Configured says that there is anything to switch hosts off with.
func (p *Power) Configured() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.last.Hosts) > 0 || len(p.command.Argv) > 0
}

// Off powers host off and returns evidence for generation g, obtained after this call began. FenceUnconfirmed otherwise.
func (p *Power) Off(ctx context.Context, host model.HostID, g model.Generation, now func() time.Time) (model.Evidence, error) {
	if !model.ValidHostID(host) {
		return model.Evidence{}, model.Fail(model.InvalidArgument, nil, "%q is not a host id", host)
	}
	t := p.join(ctx, host)
	select {
	case <-t.done:
	case <-ctx.Done():
		return model.Evidence{}, ctx.Err()
	}
	if t.err != nil {
		return model.Evidence{}, t.err
	}
	return model.Evidence{Kind: model.EvidenceFenced, Generation: g, By: t.by, Detail: t.detail, At: now().UTC()}, nil
}

// join gives a power-off that has not begun yet. Its goroutine ends within offLimit; a caller who gives up does not end it,
// since others may wait for it.
func (p *Power) join(ctx context.Context, host model.HostID) *turn {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.turns[host]
	if q == nil {
		q = &queue{}
		p.turns[host] = q
	}
	if q.next != nil {
		return q.next
	}
	t := &turn{done: make(chan struct{})}
	free := context.WithoutCancel(ctx)
	if q.running == nil {
		q.running = t
		go p.carryOut(free, host, q, t)
		return t
	}
	q.next = t
	return t
}

func (p *Power) carryOut(ctx context.Context, host model.HostID, q *queue, t *turn) {
	for t != nil {
		limited, cancel := context.WithTimeout(ctx, offLimit)
		t.by, t.detail, t.err = p.off(limited, host)
		cancel()
		p.mu.Lock()
		q.running, q.next = q.next, nil
		following := q.running
		p.mu.Unlock()
		close(t.done)
		t = following
	}
}

// off tries the levels in order, then the command.
func (p *Power) off(ctx context.Context, host model.HostID) (by, detail string, err error) {
	c, _ := p.config() // an unreadable file was logged, and the last good one counts
	levels := c.Hosts[host]
	var failed []error
	for i, l := range levels {
		err := l.off(ctx)
		if err == nil {
			return l.agents(), fmt.Sprintf("%s of level %d powered it off, and its status says off", l, i+1), nil
		}
		p.log.Error("fence_level_failed", "host", string(host), "level", i+1, "devices", l.String(), "error", err)
		failed = append(failed, fmt.Errorf("level %d: %w", i+1, err))
	}
	if len(p.command.Argv) > 0 || len(levels) == 0 {
		ev, err := p.command.Off(ctx, host, 0, time.Now)
		if err == nil || len(levels) == 0 {
			return ev.By, ev.Detail, err
		}
		failed = append(failed, err)
	}
	return "", "", unconfirmed(host, errors.Join(failed...))
}

func (l Level) off(ctx context.Context) error {
	for _, d := range l {
		if err := d.off(ctx); err != nil {
			return fmt.Errorf("%s: %w", d, err)
		}
	}
	return nil
}

// String names all devices of the level.
func (l Level) String() string {
	names := make([]string, 0, len(l))
	for _, d := range l {
		names = append(names, d.String())
	}
	return strings.Join(names, " and ")
}

func (l Level) agents() string {
	var names []string
	for _, d := range l {
		if !slices.Contains(names, d.Agent) {
			names = append(names, d.Agent)
		}
	}
	return strings.Join(names, ", ")
}

// Check asks each device of a host whether it can be used, for `understudy doctor`.
func (p *Power) Check(ctx context.Context, host model.HostID) []model.Check {
	c, err := p.config()
	var checks []model.Check
	if err != nil {
		checks = append(checks, model.Check{
			Name: "fence config", Detail: fmt.Sprintf("%s: %v", p.path, err), Try: "repair the file; until then the last good one counts",
		})
	}
	for i, l := range c.Hosts[host] {
		for _, d := range l {
			k := model.Check{Name: fmt.Sprintf("fence level %d", i+1), OK: true, Detail: d.String() + " answers"}
			if err := d.monitor(ctx); err != nil {
				k.OK, k.Detail = false, fmt.Sprintf("%s: %v", d, err)
				k.Try = "run " + d.Agent + " with action=monitor on the control host"
			}
			checks = append(checks, k)
		}
	}
	switch {
	case len(checks) > 0:
	case len(p.command.Argv) > 0:
		checks = append(checks, model.Check{Name: "fence", OK: true, Detail: "by the command " + p.command.Argv[0] + ", which is not tried here"})
	default:
		checks = append(checks, model.Check{
			Name: "fence", OK: true, Detail: "no device: a silent host counts as off when its lease has run out or a person says so",
		})
	}
	return checks
}
