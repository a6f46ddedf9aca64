package leftover

import (
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/internal/model"
)

func TestEachMarkIsExpectedOrALeftover(t *testing.T) {
	vm := model.VMRef{Name: "db1", UUID: "11111111-2222-3333-4444-555555555555"}
	k := Known{VM: vm, Primary: "host-a", Standby: "host-b", Generation: 3, Committed: model.PointRef{Generation: 3, Seq: 8}}
	mark := func(kind model.MarkKind, seq model.Seq) model.Mark { return model.Mark{Kind: kind, VM: vm, Seq: seq} }
	named := func(kind model.MarkKind, name string, g model.Generation) model.Mark {
		return model.Mark{Kind: kind, VM: vm, Name: name, Generation: g}
	}
	for _, c := range []struct {
		m    model.Mark
		host model.HostID
		want Verdict
		why  string
	}{
		{mark(model.MarkCheckpoint, 8), "host-a", OK, "cursor"},
		{mark(model.MarkCheckpoint, 9), "host-a", OK, "under way"},
		{mark(model.MarkCheckpoint, 7), "host-a", Leftover, "older than the committed one"},
		{mark(model.MarkCheckpoint, 8), "host-b", Leftover, "on the standby"},
		{model.Mark{Kind: model.MarkCheckpoint, VM: vm, Foreign: true}, "host-a", Foreign, "virtnbdbackup's"},
		{mark(model.MarkJob, 0), "host-a", OK, ""},
		{mark(model.MarkScratch, 0), "host-b", Leftover, ""},
		{mark(model.MarkWatch, 0), "host-b", OK, "a former primary's, which is mute"},
		{mark(model.MarkWatch, 0), "host-c", Leftover, ""},
		{mark(model.MarkStaging, 9), "host-b", OK, ""},
		{mark(model.MarkStaging, 8), "host-b", Leftover, ""},
		{mark(model.MarkStaging, 9), "host-a", Leftover, ""},
		{named(model.MarkOverlay, "/s/replicas/x/active/g3", 3), "host-a", OK, "it runs from it"},
		{named(model.MarkOverlay, "/s/replicas/x/active/g2", 2), "host-b", OK, "former life"},
		{named(model.MarkOverlay, "/s/replicas/x/active/g3", 3), "host-b", Leftover, "an undo that was forgotten"},
		{named(model.MarkOverlay, "/s/replicas/x/active/test-1", 0), "host-b", Leftover, "a test that was not cleaned up"},
		{mark(model.MarkTest, 0), "host-b", Leftover, ""},
		{mark(model.MarkRescue, 0), "host-b", OK, ""},
		{mark(model.MarkFloor, 0), "host-b", OK, ""},
		{mark(model.MarkFloor, 0), "host-c", Leftover, ""},
		{model.Mark{Kind: model.MarkNBD, Orphan: true}, "host-b", Leftover, ""},
	} {
		got, said := Judge(c.m, c.host, &k)
		require.Equal(t, c.want, got, "%v on %s: %s (%s)", c.m, c.host, c.why, said)
		require.NotEmpty(t, said)
	}
	used := named(model.MarkOverlay, "/s/replicas/x/active/g3", 3)
	used.Used = true
	got, _ := Judge(used, "host-b", &k)
	require.Equal(t, OK, got, "a domain's disks are never a leftover")
	k.Busy = true
	got, _ = Judge(mark(model.MarkCheckpoint, 8), "host-b", &k)
	require.Equal(t, OK, got, "in the middle of a takeover nothing is judged")
	got, _ = Judge(mark(model.MarkFloor, 0), "host-a", nil)
	require.Equal(t, Leftover, got)
	got, _ = Judge(named(model.MarkOverlay, "/s/replicas/x/active/g2", 2), "host-a", nil)
	require.Equal(t, OK, got, "the VM goes on running from it without a protection")
	got, _ = Judge(named(model.MarkOverlay, "/s/replicas/x/active/test-2", 0), "host-a", nil)
	require.Equal(t, Leftover, got)
	got, said := Judge(mark(model.MarkGuard, 0), "host-a", nil)
	require.Equal(t, Leftover, got)
	require.Contains(t, said, "understudy guard forget "+vm.UUID)
	got, _ = Judge(mark(model.MarkReplica, 0), "host-a", nil)
	require.Equal(t, OK, got, "unprotect without --purge")
}
