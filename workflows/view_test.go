package workflows

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

var updateViews = flag.Bool("update", false, "write the views of testdata/views anew")

// viewed are the histories that are shown as text.
var viewed = []string{
	"protect-through-failover", "failover-by-surrender", "protect-in-the-merged-gear", "switchover", "protect-through-a-switchover", "failover-cancelled",
}

// Replay sees that a command is another one; it does not see other inputs, queues, limits and lengths of timers. These views are
// what today's code does along the recorded histories, so a difference is a change that somebody has to mean.
func TestWhatTheWorkflowsDoIsWhatTheGoldenViewsSay(t *testing.T) {
	for _, name := range viewed {
		t.Run(name, func(t *testing.T) {
			v := &view{used: map[string]string{}}
			r, err := worker.NewWorkflowReplayerWithOptions(worker.WorkflowReplayerOptions{Interceptors: []interceptor.WorkerInterceptor{v}})
			require.NoError(t, err)
			Register(replayed{WorkflowReplayer: r})
			hist, _ := readHistory(t, filepath.Join(histories, name+".json.gz"))
			require.NoError(t, r.ReplayWorkflowHistory(silentLog{}, hist))
			golden := filepath.Join("testdata", "views", name+".txt")
			if *updateViews {
				require.NoError(t, os.MkdirAll(filepath.Dir(golden), 0o755))
				require.NoError(t, os.WriteFile(golden, []byte(v.text()), 0o644))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err)
			require.Equal(t, string(want), v.text(), "if it is meant: go test ./workflows -run GoldenViews -update")
		})
	}
}

// view writes down what a workflow does.
type view struct {
	interceptor.WorkerInterceptorBase
	lines []string
	used  map[string]string // limits by activity
	began time.Time
	ended bool
}

func (v *view) text() string {
	var b strings.Builder
	for _, l := range v.lines {
		b.WriteString(l + "\n")
	}
	if !v.ended {
		b.WriteString("          it runs on\n")
	}
	b.WriteString("\nlimits:\n")
	var names []string
	for n := range v.used {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		fmt.Fprintf(&b, "  %s: %s\n", n, v.used[n])
	}
	return b.String()
}

func (v *view) say(ctx workflow.Context, format string, args ...any) {
	now := workflow.Now(ctx)
	if v.began.IsZero() {
		v.began = now
	}
	line := fmt.Sprintf("%7.1f s ", now.Sub(v.began).Seconds()) + fmt.Sprintf(format, args...)
	v.lines = append(v.lines, strings.TrimRight(line, " "))
}

func (v *view) InterceptWorkflow(_ workflow.Context, next interceptor.WorkflowInboundInterceptor) interceptor.WorkflowInboundInterceptor {
	return &viewIn{interceptor.WorkflowInboundInterceptorBase{Next: next}, v}
}

type viewIn struct {
	interceptor.WorkflowInboundInterceptorBase
	v *view
}

func (i *viewIn) Init(out interceptor.WorkflowOutboundInterceptor) error {
	return i.Next.Init(&viewOut{interceptor.WorkflowOutboundInterceptorBase{Next: out}, i.v})
}

func (i *viewIn) ExecuteWorkflow(ctx workflow.Context, in *interceptor.ExecuteWorkflowInput) (any, error) {
	i.v.say(ctx, "%s begins", workflow.GetInfo(ctx).WorkflowType.Name)
	out, err := i.Next.ExecuteWorkflow(ctx, in)
	i.v.ended = true
	switch can := (*workflow.ContinueAsNewError)(nil); {
	case errors.As(err, &can):
		i.v.say(ctx, "it continues as new")
	case err != nil:
		i.v.say(ctx, "it fails: %v", err)
	default:
		i.v.say(ctx, "it ends")
	}
	return out, err
}

func (i *viewIn) HandleSignal(ctx workflow.Context, in *interceptor.HandleSignalInput) error {
	i.v.say(ctx, "<- signal %s%s", in.SignalName, chosenOf(in.Arg))
	return i.Next.HandleSignal(ctx, in)
}

func (i *viewIn) ExecuteUpdate(ctx workflow.Context, in *interceptor.UpdateInput) (any, error) {
	i.v.say(ctx, "<- update %s%s", in.Name, chosen(in.Args...))
	return i.Next.ExecuteUpdate(ctx, in)
}

type viewOut struct {
	interceptor.WorkflowOutboundInterceptorBase
	v *view
}

func (o *viewOut) ExecuteActivity(ctx workflow.Context, name string, args ...any) workflow.Future {
	opt := workflow.GetActivityOptions(ctx)
	o.v.say(ctx, "%s on %s: %s%s", name, strings.TrimPrefix(opt.TaskQueue, "understudy-"), opt.Summary, chosen(args...))
	attempts := int32(0)
	if opt.RetryPolicy != nil {
		attempts = opt.RetryPolicy.MaximumAttempts
	}
	o.v.used[name] = fmt.Sprintf("to start %s, to end %s, heartbeat %s, attempts %d, waits for its cancellation %t",
		opt.ScheduleToStartTimeout, opt.StartToCloseTimeout, opt.HeartbeatTimeout, attempts, opt.WaitForCancellation)
	return o.Next.ExecuteActivity(ctx, name, args...)
}

func (o *viewOut) NewTimerWithOptions(ctx workflow.Context, d time.Duration, options workflow.TimerOptions) workflow.Future {
	o.v.say(ctx, "timer of %.1f s: %s", d.Seconds(), options.Summary)
	return o.Next.NewTimerWithOptions(ctx, d, options)
}

func (o *viewOut) ExecuteChildWorkflow(ctx workflow.Context, name string, args ...any) workflow.ChildWorkflowFuture {
	opt := workflow.GetChildWorkflowOptions(ctx)
	o.v.say(ctx, "child %s as %s%s", name, opt.WorkflowID, chosen(args...))
	return o.Next.ExecuteChildWorkflow(ctx, name, args...)
}

func (o *viewOut) SignalExternalWorkflow(ctx workflow.Context, id, run, name string, arg any) workflow.Future {
	o.v.say(ctx, "-> signal %s to %s%s", name, id, chosen(arg))
	return o.Next.SignalExternalWorkflow(ctx, id, run, name, arg)
}

func (o *viewOut) SideEffect(ctx workflow.Context, f func(workflow.Context) any) converter.EncodedValue {
	v := o.Next.SideEffect(ctx, f)
	var d decided
	if v.Get(&d) == nil {
		what := "a point"
		if d.Skip {
			what = "a look"
		}
		o.v.say(ctx, "decided: %s in %.1f s (%s) %s", what, d.StartIn.Seconds(), d.Binding, d.Gear)
	}
	return v
}

func (o *viewOut) GetVersion(ctx workflow.Context, id string, least, most workflow.Version) workflow.Version {
	got := o.Next.GetVersion(ctx, id, least, most)
	if line := fmt.Sprintf("%s is %d", id, got); o.v.used["change "+id] == "" {
		o.v.used["change "+id] = line
		o.v.say(ctx, "%s", line)
	}
	return got
}

// chosenFields are the inputs that say what an order is about.
var chosenFields = []string{
	"generation", "seq", "point", "parent", "committed", "force_resync", "freeze", "capture", "send", "below", "look", "standby", "host", "from", "to", "target", "expect", "attempt",
	"mode", "demote", "paused", "keep_last", "compression", "event", "kind", "by", "reason", "outcome", "silent", "purge_replica",
}

func chosenOf(p *commonpb.Payloads) string {
	var raw json.RawMessage
	if converter.GetDefaultDataConverter().FromPayloads(p, &raw) != nil {
		return ""
	}
	return chosen(raw)
}

func chosen(args ...any) string {
	var b strings.Builder
	for _, arg := range args {
		raw, err := json.Marshal(arg)
		if err != nil {
			continue
		}
		pick(&b, raw)
	}
	return b.String()
}

func pick(b *strings.Builder, raw []byte) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil {
		return
	}
	for _, n := range chosenFields {
		raw, told := fields[n]
		if !told {
			continue
		}
		switch value := string(raw); {
		case value == `""` || value == "0" || value == "false" || value == "null" || value == `{"generation":0,"seq":0}`:
		case strings.HasPrefix(value, "{"):
			var inner strings.Builder
			pick(&inner, raw)
			fmt.Fprintf(b, " %s{%s}", n, strings.TrimSpace(inner.String()))
		default:
			fmt.Fprintf(b, " %s=%s", n, value)
		}
	}
}
