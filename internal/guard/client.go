package guard

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"syscall"

	"understudy/internal/model"
)

// Client asks the guard of this host. Each call is a connection of its own, so that a guard which was restarted between two
// calls is not noticed.
type Client struct{ path string }

// Dial names the guard by its socket; nothing is opened before the first call.
func Dial(path string) *Client { return &Client{path} }

// Arm binds a VM: when it returned nil the guard acts on it, whatever happens to the caller. Inside a generation a deadline
// only moves forward and a mode only up; a lower generation is StaleGeneration.
func (c *Client) Arm(ctx context.Context, a model.GuardArm) error {
	_, err := c.call(ctx, request{Op: opArm, Arm: &a})
	return err
}

// Stop kills every copy of a generation lower than below and proves it gone; the VM may not start here until a generation of
// at least below is armed.
func (c *Client) Stop(ctx context.Context, uuid string, below model.Generation) error {
	_, err := c.call(ctx, request{Op: opStop, UUID: uuid, Generation: below})
	return err
}

// Freeze ends the lease of a generation at once, without waiting for its deadline, and proves that the copy is stopped. A later
// Arm with a deadline ahead thaws it.
func (c *Client) Freeze(ctx context.Context, uuid string, g model.Generation) error {
	_, err := c.call(ctx, request{Op: opFreeze, UUID: uuid, Generation: g})
	return err
}

// Forget ends the protection of a VM on this host. Refused while a frozen copy of it is here: nobody would ever thaw it.
func (c *Client) Forget(ctx context.Context, uuid string) error {
	_, err := c.call(ctx, request{Op: opForget, UUID: uuid})
	return err
}

// State is the guard's level and what it measured.
func (c *Client) State(ctx context.Context) (model.GuardState, error) {
	a, err := c.call(ctx, request{Op: opState})
	if err == nil && a.State == nil {
		err = c.fail(errors.New("an answer without a state"))
	}
	if err != nil {
		return model.GuardState{}, err
	}
	return *a.State, nil
}

// MayStart asks the start gate. nil also for a VM that is not protected here.
func (c *Client) MayStart(ctx context.Context, uuid string) error {
	_, err := c.call(ctx, request{Op: opMayStart, UUID: uuid})
	return err
}

// List shows all protected VMs of this host.
func (c *Client) List(ctx context.Context) ([]Entry, error) {
	a, err := c.call(ctx, request{Op: opList})
	return a.List, err
}

// Away says that the guard did not answer, as opposed to: it refused.
func Away(err error) bool { return model.KindOf(err) == model.Unreachable }

func (c *Client) call(ctx context.Context, r request) (answer, error) {
	if err := ctx.Err(); err != nil {
		return answer{}, err
	}
	b, err := json.Marshal(r)
	if err != nil {
		return answer{}, model.Fail(model.Internal, err, "cannot ask the guard")
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.path)
	if err != nil {
		return answer{}, c.fail(err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	a, err := exchange(conn, append(b, '\n'))
	switch {
	case ctx.Err() != nil && err != nil:
		return answer{}, c.fail(ctx.Err())
	case err != nil:
		return answer{}, c.fail(err)
	case !a.OK:
		if a.Kind == "" {
			a.Kind = model.Internal
		}
		f := model.Fail(a.Kind, nil, "%s", a.Error)
		f.Try = a.Try
		return answer{}, f
	}
	return a, nil
}

func exchange(conn io.ReadWriter, line []byte) (answer, error) {
	if _, err := conn.Write(line); err != nil {
		return answer{}, err
	}
	got, err := readLine(bufio.NewReader(conn), maxAnswer)
	if err != nil {
		return answer{}, err
	}
	var a answer
	if err := json.Unmarshal(got, &a); err != nil {
		return answer{}, err
	}
	return a, nil
}

func (c *Client) fail(err error) error {
	f := model.Fail(model.Unreachable, err, "the guard of this host does not answer")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return f.WithTry("systemctl start understudy-guard")
	}
	return f
}
