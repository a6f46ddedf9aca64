package cli

import (
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/model"
)

func TestMarksAreCleanOrExitThreeAndOnlyLeftoversAreRemoved(t *testing.T) {
	d := sit(t)
	d.plane.hosts = []contract.HostWatchState{{Facts: model.HostFacts{Host: "host-a"}}, {Facts: model.HostFacts{Host: "host-b"}}}
	d.plane.list = []contract.DescribeOut{{
		Spec:  contract.ProtectSpec{VM: db1},
		State: contract.ProtectState{Primary: "host-a", Standby: "host-b", Generation: 1, Committed: model.PointRef{Generation: 1, Seq: 4}},
	}}
	cursor := model.Mark{Kind: model.MarkCheckpoint, VM: db1, Generation: 1, Seq: 4, Name: "understudy-g1-s4"}
	old := model.Mark{Kind: model.MarkCheckpoint, VM: db1, Generation: 1, Seq: 2, Name: "understudy-g1-s2"}
	foreign := model.Mark{Kind: model.MarkCheckpoint, VM: db1, Name: "virtnbdbackup.0", Foreign: true}
	there := []model.Mark{cursor, foreign}
	var removed []model.Mark
	d.plane.marks = func(h model.HostID, in contract.MarksIn) (contract.MarksOut, error) {
		if h == "host-b" {
			return contract.MarksOut{}, nil
		}
		removed = append(removed, in.Remove...)
		if len(in.Remove) > 0 {
			there = []model.Mark{cursor, foreign}
		}
		return contract.MarksOut{Marks: there, Removed: in.Remove}, nil
	}
	require.Equal(t, 0, d.run("marks", "--output", "json"), d.stderr.String())
	require.Equal(t, true, d.answer(t)["clean"])
	require.EqualValues(t, 1, d.answer(t)["foreign"])

	there = append(there, old)
	require.Equal(t, 3, d.run("marks"))
	require.Contains(t, d.stdout.String(), "understudy-g1-s2")
	require.NotContains(t, d.stdout.String(), "understudy-g1-s4", "what is expected is not shown without --all")
	require.Empty(t, removed)

	require.Equal(t, 64, d.run("marks", "--clean"), "nobody can confirm here")
	require.Empty(t, removed)
	require.Equal(t, 0, d.run("marks", "--clean", "--yes"), d.stderr.String())
	require.Equal(t, []model.Mark{old}, removed)
}
