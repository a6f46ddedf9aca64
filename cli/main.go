// Package cli is the command tree, one file a command. Data goes to standard output, everything else to standard error,
// and the exit code says what happened (exit.go, docs/CLI.md).
package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"os/user"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"understudy/internal/contract"
	"understudy/internal/model"
	"understudy/internal/trust"
	"understudy/internal/ui"
	"understudy/starter"
)

// service is what the commands need of starter.Client.
type service interface {
	EnsureProtected(context.Context, contract.ProtectSpec) (contract.DescribeOut, error)
	Find(ctx context.Context, vm string) (contract.DescribeOut, error)
	Describe(ctx context.Context, uuid string) (contract.DescribeOut, error)
	Explain(context.Context, model.VMRef) (contract.ExplainOut, error)
	List(context.Context) ([]contract.DescribeOut, error)
	Overview(context.Context) ([]contract.DescribeOut, error)
	Settle(context.Context)
	Hosts(context.Context) ([]contract.HostWatchState, error)
	Servers(context.Context) (int, error)
	Host(context.Context, model.HostID) (contract.HostWatchState, error)
	Inspect(context.Context, model.HostID, contract.InspectIn) (contract.InspectOut, error)
	Locate(ctx context.Context, vm string, on model.HostID) (model.DomainFacts, model.HostID, error)
	Points(context.Context, model.HostID, model.VMRef) ([]contract.PointView, error)
	Pause(context.Context, model.VMRef, contract.PauseIn) (contract.DescribeOut, error)
	Resume(context.Context, model.VMRef, contract.ResumeIn) (contract.DescribeOut, error)
	SetPolicy(context.Context, model.VMRef, model.Policy) (contract.DescribeOut, error)
	ReplicateNow(context.Context, model.VMRef, contract.ReplicateNowIn) (contract.PointSummary, error)
	RequestFailover(context.Context, model.VMRef, contract.FailoverRequestIn) (contract.FailoverRequestOut, error)
	RequestSwitchover(context.Context, model.VMRef, contract.SwitchoverRequestIn) (contract.FailoverRequestOut, error)
	RequestTestFailover(context.Context, model.VMRef, contract.TestRequestIn) (contract.TestRequestOut, error)
	Conclude(context.Context, model.VMRef, contract.FailoverOrder) (contract.FailoverBrief, error)
	FailoverTimeline(ctx context.Context, vm model.VMRef, workflowID string) (contract.FailoverOut, error)
	Unprotect(context.Context, model.VMRef, contract.UnprotectIn) (contract.UnprotectOut, error)
	SetStart(context.Context, model.VMRef, contract.SetStartIn) (contract.DescribeOut, error)
	Marks(context.Context, model.HostID, contract.MarksIn) (contract.MarksOut, error)
	Recover(context.Context) (contract.RecoverOut, error)
	Progress(context.Context, model.VMRef) (*contract.ReplicateProgress, error)
	Close()
}

// env is the world of the commands: the tests bring their own.
type env struct {
	in          io.Reader
	out, err    io.Writer
	interactive bool // a person can answer
	outTerminal bool
	errTerminal bool
	who         string // for histories
	now         func() time.Time
	tick        time.Duration // between two looks at what goes on
	redraw      time.Duration // of a live screen
	colour      bool
	size        func() (width, height int)
	keys        func(context.Context) (<-chan byte, func()) // single keys until they are released
	connect     func(ctx context.Context, to target) (service, error)
}

// target is where the control plane is.
type target struct{ address, namespace, tlsDir string }

// dial connects as the operator whose certificate lies in the folder.
func dial(ctx context.Context, to target) (service, error) {
	var secure *tls.Config
	if to.tlsDir != "" {
		folder, err := trust.Open(to.tlsDir)
		if err != nil {
			return nil, model.Fail(model.Refused, err, "the certificate cannot be used").WithTry("understudy ca show " + to.tlsDir)
		}
		secure = folder.Client(to.address, trust.Server)
	}
	c, err := starter.Dial(ctx, to.address, to.namespace, secure)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Main runs the command line and returns the exit code. processes are the commands that are services (server, agent): they
// live where the workers are composed, and nobody but main may import those.
func Main(args []string, processes ...*cli.Command) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	terminal := func(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }
	e := &env{
		in: os.Stdin, out: os.Stdout, err: os.Stderr,
		interactive: terminal(os.Stdin) && terminal(os.Stderr), outTerminal: terminal(os.Stdout), errTerminal: terminal(os.Stderr),
		who: caller(), now: time.Now, tick: 500 * time.Millisecond,
		redraw: redraw, colour: colours(terminal(os.Stdout)), size: terminalSize, keys: terminalKeys,
		connect: dial,
	}
	return e.main(ctx, args, processes...)
}

func (e *env) main(ctx context.Context, args []string, processes ...*cli.Command) int {
	err := e.app(processes).RunContext(ctx, args)
	code := exitCode(err)
	if err != nil && !errors.Is(err, errOutside) {
		e.report(err, code, wantsJSON(args))
	}
	return code
}

func (e *env) app(processes []*cli.Command) *cli.App {
	app := &cli.App{
		Name: "understudy", Usage: "keep libvirt VMs highly available by adaptive snapshot replication",
		Description: `Flags come before the VM's name. Every command has --help.

EXAMPLE
   understudy protect --standby kvm2 --rpo 30s --wait db1
   understudy status db1

` + exitStatus(),
		HideVersion: true, EnableBashCompletion: true, Writer: e.out, ErrWriter: e.err,
		ExitErrHandler: func(*cli.Context, error) {}, // main decides
		OnUsageError:   usage,
		Commands: append([]*cli.Command{
			e.protectCommand(), e.unprotectCommand(), e.statusCommand(), e.pointsCommand(), e.syncCommand(), e.pauseCommand(),
			e.resumeCommand(), e.setPolicyCommand(), e.failoverCommand(), e.commitCommand(), e.rollbackCommand(), e.switchoverCommand(), e.failbackCommand(), e.testFailoverCommand(), e.explainCommand(), e.policyCommand(), e.simulateCommand(), e.hostsCommand(), e.marksCommand(), e.planCommand(), e.doctorCommand(), e.notifyCommand(), e.caCommand(), e.joinCommand(), e.recoverCommand(), e.completionCommand(), e.versionCommand(),
		}, processes...),
	}
	for _, c := range processes {
		fromEnvironment(c)
	}
	app.Action = func(c *cli.Context) error {
		if name := c.Args().First(); name != "" {
			return unknownCommand(app, name)
		}
		app.Writer = e.err
		_ = cli.ShowAppHelp(c)
		return model.Fail(model.InvalidArgument, nil, "no command given").WithTry("understudy status")
	}
	for _, c := range app.Commands {
		c.OnUsageError = usage
		c.HideHelpCommand = true
		c.Action = strict(c.Action)
	}
	return app
}

// strict refuses what urfave/cli would swallow: a flag behind an argument counts as an argument there.
func strict(do cli.ActionFunc) cli.ActionFunc {
	return func(c *cli.Context) error {
		for _, a := range c.Args().Slice() {
			if strings.HasPrefix(a, "-") {
				return model.Fail(model.InvalidArgument, nil, "the flag %s stands behind an argument", a).
					WithTry(fmt.Sprintf("understudy %s %s … %s", c.Command.Name, a, c.Args().First()))
			}
		}
		if c.Command.ArgsUsage == "" && c.NArg() > 0 {
			return model.Fail(model.InvalidArgument, nil, "%s takes no argument, not %q", c.Command.Name, c.Args().First()).
				WithTry("understudy " + c.Command.Name + " --help")
		}
		return do(c)
	}
}

func usage(c *cli.Context, err error, _ bool) error {
	try := "understudy --help"
	if c.Command != nil && c.Command.Name != "" && c.Command.Name != "understudy" {
		try = "understudy " + c.Command.Name + " --help"
	}
	return model.Fail(model.InvalidArgument, nil, "%s", err.Error()).WithTry(try)
}

func unknownCommand(app *cli.App, name string) error {
	f := model.Fail(model.InvalidArgument, nil, "there is no command %q", name).WithTry("understudy --help")
	if near := cli.SuggestCommand(app.Commands, name); near != "" {
		f.Try = "understudy " + strings.TrimSuffix(strings.TrimPrefix(near, `Did you mean "`), `"?`)
	}
	return f
}

func caller() string {
	name := os.Getenv("SUDO_USER")
	if name == "" {
		if u, err := user.Current(); err == nil {
			name = u.Username
		}
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return name + "@" + host
}

// wantsJSON looks at the bare arguments: an error of the flags themselves has to be printed too.
func wantsJSON(args []string) bool {
	for i, a := range args {
		a = strings.TrimLeft(a, "-")
		name, value, found := strings.Cut(a, "=")
		if name != "output" && name != "o" {
			continue
		}
		if !found && i+1 < len(args) {
			value = args[i+1]
		}
		if o := ui.Output(value); o == ui.JSON || o == ui.JSONL {
			return true
		}
	}
	return false
}
