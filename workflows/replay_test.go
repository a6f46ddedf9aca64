package workflows

import (
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	enums "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"understudy/internal/contract"
)

const histories = "testdata/replay"

// recorded is what each history must contain, so that a new recording does not silently show less than the old one.
var recorded = map[string]struct {
	workflow string
	ends     enums.EventType // 0: it was running
	has      []string        // activities, timers' and updates' names and signals
}{
	"protect-until-continued":      {contract.ProtectVMName, enums.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW, []string{"snapshot", "verify", contract.UpdSetPolicy.Name, contract.UpdPause.Name, contract.UpdResume.Name, contract.UpdReplicateNow.Name}},
	"protect-continued":            {contract.ProtectVMName, enums.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED, []string{"snapshot", "retire", contract.UpdUnprotect.Name}},
	"failover-by-surrender":        {contract.FailoverVMName, enums.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED, []string{"surrender", "permit", "start"}},
	"failover-by-fence":            {contract.FailoverVMName, enums.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED, []string{"fence", "permit", "start"}},
	"failover-by-lease":            {contract.FailoverVMName, enums.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED, []string{"await-lease", "permit", "start"}},
	"failover-with-salvage":        {contract.FailoverVMName, enums.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED, []string{"surrender", "salvage", "permit", "materialize", "start"}},
	"failover-rolled-back":         {contract.FailoverVMName, enums.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED, []string{"surrender", "materialize", "dismantle"}},
	"protect-through-failover":     {contract.ProtectVMName, 0, []string{"snapshot", contract.SigVMEvent.Name}},
	"protect-through-host-loss":    {contract.ProtectVMName, 0, []string{"snapshot", contract.SigHostSuspect.Name, contract.SigHostRecovered.Name}},
	"hostwatch-of-the-lost":        {contract.HostWatchName, 0, []string{contract.SigAttach.Name, "watch-host"}},
	"switchover":                   {contract.FailoverVMName, enums.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED, []string{"surrender", "permit", "start"}},
	"protect-through-a-switchover": {contract.ProtectVMName, 0, []string{contract.UpdSwitchover.Name}},
	"failover-cancelled":           {contract.FailoverVMName, enums.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED, []string{"surrender", "materialize"}},
	"protect-in-the-merged-gear":   {contract.ProtectVMName, 0, []string{"snapshot", "capture-and-send", "verify", "settle"}},
	"protect-restarted-in-place":   {contract.ProtectVMName, 0, []string{"restart", contract.SigVMEvent.Name}},
	"recover":                      {contract.RecoverName, enums.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED, []string{"list-records"}},
	"protect-recovered":            {contract.ProtectVMName, 0, []string{"points", "preflight", "verify"}},
	"recovery-in-order":            {contract.RecoveryName, 0, []string{contract.SigStartAsk.Name, contract.SigStartEnded.Name}},
	"test-failover":                {contract.TestFailoverName, enums.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED, []string{"test-probe"}},
}

// Workflows outlive the program that began them. Whoever changes one learns here whether those under way survive it.
func TestRecordedHistoriesReplay(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(histories, "*.json.gz"))
	require.NoError(t, err)
	require.Len(t, files, len(recorded), "a history for each row of the table and a row for each history: see CONTRIBUTING.md")
	r := worker.NewWorkflowReplayer()
	Register(replayed{WorkflowReplayer: r})
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json.gz")
		t.Run(name, func(t *testing.T) {
			want, known := recorded[name]
			require.True(t, known)
			hist, text := readHistory(t, file)
			require.NoError(t, r.ReplayWorkflowHistory(silentLog{}, hist))
			started := hist.Events[0].GetWorkflowExecutionStartedEventAttributes()
			require.Equal(t, want.workflow, started.GetWorkflowType().GetName())
			last := hist.Events[len(hist.Events)-1]
			if want.ends != 0 {
				require.Equal(t, want.ends, last.GetEventType())
			}
			names := namesIn(hist)
			for _, n := range want.has {
				require.Contains(t, names, n)
			}
			// Nothing of the machine and the person that recorded it.
			require.Empty(t, foreign.FindString(text))
		})
	}
}

var foreign = regexp.MustCompile(`"identity": *"\d+@|"(/work|/root|/home|/tmp)/|BEGIN [A-Z ]*PRIVATE KEY|(?i)password`)

func readHistory(t *testing.T, file string) (*historypb.History, string) {
	t.Helper()
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	text, err := io.ReadAll(z)
	require.NoError(t, err)
	hist, err := client.HistoryFromJSON(strings.NewReader(string(text)), client.HistoryJSONOptions{})
	require.NoError(t, err)
	return hist, string(text)
}

func namesIn(h *historypb.History) []string {
	var out []string
	for _, e := range h.Events {
		for _, n := range []string{
			e.GetActivityTaskScheduledEventAttributes().GetActivityType().GetName(),
			e.GetWorkflowExecutionSignaledEventAttributes().GetSignalName(),
			e.GetWorkflowExecutionUpdateAcceptedEventAttributes().GetAcceptedRequest().GetInput().GetName(),
		} {
			if n != "" && !slices.Contains(out, n) {
				out = append(out, n)
			}
		}
	}
	return out
}

// replayed lets Register fill a replayer, so that no workflow is forgotten.
type replayed struct {
	worker.WorkflowReplayer
	worker.ActivityRegistry
	worker.NexusServiceRegistry
}

func (r replayed) RegisterWorkflow(w any) { r.WorkflowReplayer.RegisterWorkflow(w) }
func (r replayed) RegisterWorkflowWithOptions(w any, o workflow.RegisterOptions) {
	r.WorkflowReplayer.RegisterWorkflowWithOptions(w, o)
}
