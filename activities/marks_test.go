package activities

import (
	"context"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/internal/contract"
	"understudy/internal/model"
	"understudy/internal/restore"
)

// marker is a host whose marks go when they are removed.
type marker struct {
	there []model.Mark
	ended []string
}

func (m *marker) List(context.Context) ([]model.Mark, error) { return slices.Clone(m.there), nil }
func (m *marker) EndOrphan(_ context.Context, of model.Mark) error {
	m.ended = append(m.ended, of.Name)
	m.drop(of)
	return nil
}
func (m *marker) drop(of model.Mark) {
	m.there = slices.DeleteFunc(m.there, func(x model.Mark) bool { return x == of })
}

type cleaning struct {
	*fakeRestorer
	clean func(restore.Test)
}

func (r cleaning) TestClean(_ context.Context, t restore.Test) error {
	r.clean(t)
	return nil
}

func TestTestsAndOrphansAreRemovedAndTheGuardIsLeftToAPerson(t *testing.T) {
	f := hostEnv(t)
	test := model.Mark{Kind: model.MarkTest, VM: db1, Seq: 3, Name: "db1-test-3"}
	orphan := model.Mark{Kind: model.MarkNBD, Name: "process 11 on /run/understudy/nbd/2", Orphan: true}
	guard := model.Mark{Kind: model.MarkGuard, VM: db1, Name: "/var/lib/understudy/guard/protected.json"}
	m := &marker{there: []model.Mark{guard, orphan, test}}
	f.Marker = m
	var cleaned []restore.Test
	f.Restorer = cleaning{f.restore, func(x restore.Test) { cleaned = append(cleaned, x); m.drop(test) }}
	gone := model.Mark{Kind: model.MarkNBD, Name: "process 12 on /run/understudy/nbd/3", Orphan: true}
	out, err := run(t, f, contract.ListMarks, contract.MarksIn{Remove: []model.Mark{test, orphan, guard, gone}})
	require.NoError(t, err)
	require.Equal(t, []model.Mark{test, orphan}, out.Removed)
	require.Equal(t, []model.Mark{guard}, out.Marks)
	require.Equal(t, []restore.Test{{VM: db1, Number: 3}}, cleaned)
	require.Equal(t, []string{orphan.Name}, m.ended, "what is not there any more is not looked for")
	require.Len(t, out.Failed, 1)
	require.Contains(t, out.Failed[0], "understudy guard forget "+db1.UUID)
}
