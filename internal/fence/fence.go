// Package fence powers hosts off through a command of the operator and believes only a confirmed "off".
package fence

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"strings"
	"time"

	"understudy/internal/model"
)

// Command is a fence command: called as `PATH ARGS… off HOST` and `PATH ARGS… status HOST`. Off must return 0 only when
// the power is off; status must print "on" or "off" as its last word. Both are bounded by Timeout.
type Command struct {
	Argv    []string
	Timeout time.Duration // of one call; 0 means 20 s
}

const defaultTimeout = 20 * time.Second

// Off powers host off and returns evidence for generation g. It returns FenceUnconfirmed whenever the command fails,
// hangs, or the status asked afterwards is not "off": evidence is what status says after the order, never the order.
func (c Command) Off(ctx context.Context, host model.HostID, g model.Generation, now func() time.Time) (model.Evidence, error) {
	if len(c.Argv) == 0 {
		return model.Evidence{}, model.Fail(model.FenceUnconfirmed, nil, "no fence command is configured").WithHost(host).
			WithTry("understudy server --fence-command, or understudy failover VM --confirm-primary-down")
	}
	if !model.ValidHostID(host) {
		return model.Evidence{}, model.Fail(model.InvalidArgument, nil, "%q is not a host id", host)
	}
	if _, err := c.run(ctx, "off", host); err != nil {
		return model.Evidence{}, err
	}
	out, err := c.run(ctx, "status", host)
	if err != nil {
		return model.Evidence{}, err
	}
	words := strings.Fields(out)
	if len(words) == 0 || words[len(words)-1] != "off" {
		return model.Evidence{}, model.Fail(model.FenceUnconfirmed, nil, "the fence command reports %q after the order to power off", strings.TrimSpace(out)).WithHost(host)
	}
	return model.Evidence{
		Kind: model.EvidenceFenced, Generation: g, By: c.Argv[0],
		Detail: "powered off, and status says off", At: now().UTC(),
	}, nil
}

func (c Command) run(ctx context.Context, verb string, host model.HostID) (string, error) {
	limit := c.Timeout
	if limit <= 0 {
		limit = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	args := append(append([]string{}, c.Argv[1:]...), verb, string(host))
	cmd := exec.CommandContext(ctx, c.Argv[0], args...)
	cmd.WaitDelay = time.Second // a grandchild that keeps the pipe open must not hold us
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &limited{&out, 64 << 10}, &limited{&errOut, 64 << 10}
	err := cmd.Run()
	if ctx.Err() != nil {
		err = errors.Join(err, ctx.Err())
	}
	if err != nil {
		return "", model.Fail(model.FenceUnconfirmed, err, "fence command %q failed: %s", verb, strings.TrimSpace(errOut.String())).WithHost(host)
	}
	return out.String(), nil
}

// limited drops what exceeds n bytes: a chatty command must not exhaust memory.
type limited struct {
	b *bytes.Buffer
	n int
}

func (l *limited) Write(p []byte) (int, error) {
	if room := l.n - l.b.Len(); room > 0 {
		l.b.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
