package contract

import (
	"flag"
	"fmt"
	"os"
	"reflect"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/internal/model"
)

var update = flag.Bool("update", false, "write testdata/wire.golden")

// roots are what goes over the wire; everything reachable from them is part of it.
func roots() []any {
	return []any{
		ProtectIn{}, FailoverIn{}, FailoverOut{}, HostWatchIn{}, ChildFinishedIn{}, DescribeOut{}, Detail{},
		UtilizationIn{}, VMEventIn{}, HostSignalIn{}, CrashIn{}, PauseIn{}, ResumeIn{}, SetPolicyIn{}, ReplicateNowIn{}, ReplicateNowOut{},
		FailoverRequestIn{}, FailoverRequestOut{}, UnprotectIn{}, UnprotectOut{}, AttachIn{}, InspectIn{}, InspectOut{},
		SnapshotIn{}, SnapshotOut{}, PointIn{}, SettleIn{}, CaptureAndSendIn{}, CaptureAndSendOut{}, ReplicateIn{}, ReplicateProgress{}, ReplicateOut{}, VerifyIn{}, VerifyOut{}, SettleOut{},
		PruneIn{}, PruneOut{}, PointsIn{}, PointsOut{}, ObserveIn{}, model.Observation{}, PreflightIn{}, PreflightOut{}, RetireIn{}, RetireOut{},
		WatchIn{}, WatchOut{}, ClaimIn{}, PermitIn{}, RecordOut{}, SealIn{}, SealOut{}, SurrenderIn{}, EvidenceOut{}, FenceIn{},
		ExplainOut{}, WitnessIn{}, WitnessOut{}, MaterializeIn{}, MaterializeOut{}, StartIn{}, StartOut{}, ConfirmIn{}, ConfirmOut{},
		PauseGuestIn{}, PauseGuestOut{}, UnpauseGuestIn{}, SeedIn{}, SeedOut{}, SwitchoverRequestIn{}, TestFailoverIn{}, TestResult{},
		TestBootIn{}, TestBootOut{}, TestRequestIn{}, TestRequestOut{}, FailoverOrder{}, FailoverHeld{}, GrantorMoved{}, HostNews{}, ProbeIn{}, ProbeOut{}, FitIn{}, FitOut{},
		Listed{}, Now{},
	}
}

// describe adds a line for each field of t and of what it holds: "Type.json_name kind".
func describe(t reflect.Type, lines map[string]bool) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || !strings.HasPrefix(t.PkgPath(), "understudy/") {
		return
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous {
			name = "(" + f.Type.Name() + ")"
		}
		line := fmt.Sprintf("%s.%s %s", t.Name(), name, f.Type)
		if lines[line] {
			continue
		}
		lines[line] = true
		describe(f.Type, lines)
	}
}

// An agent may be a release behind the control plane and a workflow years behind both: a field is never renamed, re-typed
// or removed. New ones are added to the file with go test ./internal/contract -update.
func TestTheWireOnlyGrows(t *testing.T) {
	lines := map[string]bool{}
	for _, r := range roots() {
		describe(reflect.TypeOf(r), lines)
	}
	var have []string
	for l := range lines {
		have = append(have, l)
	}
	sort.Strings(have)
	const golden = "testdata/wire.golden"
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(golden, []byte(strings.Join(have, "\n")+"\n"), 0o644))
	}
	raw, err := os.ReadFile(golden)
	require.NoError(t, err)
	was := strings.Split(strings.TrimSpace(string(raw)), "\n")
	for _, l := range was {
		require.True(t, lines[l], "%q is gone or has changed", l)
	}
	for _, l := range have {
		require.True(t, slices.Contains(was, l), "%q is new: run with -update", l)
	}
}

func TestEveryFieldOnTheWireIsNamedInSnakeCase(t *testing.T) {
	lines := map[string]bool{}
	for _, r := range roots() {
		describe(reflect.TypeOf(r), lines)
	}
	for l := range lines {
		name := strings.Fields(l[strings.Index(l, ".")+1:])[0]
		require.NotEmpty(t, name, l)
		if !strings.HasPrefix(name, "(") {
			require.Equal(t, strings.ToLower(name), name, l)
		}
	}
}

func TestIDsLeadBackToWhatTheyName(t *testing.T) {
	h, ok := HostOfWatchID(HostWatchID("kvm1"))
	require.True(t, ok)
	require.Equal(t, model.HostID("kvm1"), h)
	_, ok = HostOfWatchID(ProtectID("x"))
	require.False(t, ok)
	require.NotEqual(t, HostQueue("a"), BulkQueue("a"))
	require.Equal(t, "failover/u/7", FailoverID("u", 7))
}
