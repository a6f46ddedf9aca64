package activities

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"

	"understudy/internal/contract"
)

type recorder map[string]int

func (r recorder) RegisterActivityWithOptions(_ any, o activity.RegisterOptions) { r[o.Name]++ }

// handleNames reads the handles off the contract's source, so that a new one cannot be forgotten here.
func handleNames(t *testing.T) []string {
	t.Helper()
	var names []string
	files, err := filepath.Glob("../internal/contract/*.go")
	require.NoError(t, err)
	for _, file := range files {
		if !strings.HasSuffix(file, "_test.go") {
			names = append(names, handleNamesOf(t, file)...)
		}
	}
	slices.Sort(names)
	return names
}

func handleNamesOf(t *testing.T, file string) []string {
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	require.NoError(t, err)
	var names []string
	ast.Inspect(f, func(n ast.Node) bool {
		lit, ok := n.(*ast.CompositeLit)
		if !ok {
			return true
		}
		typ, ok := lit.Type.(*ast.IndexListExpr)
		if !ok {
			return true
		}
		if id, ok := typ.X.(*ast.Ident); ok && id.Name == "Activity" {
			name, err := strconv.Unquote(lit.Elts[0].(*ast.BasicLit).Value)
			require.NoError(t, err)
			names = append(names, name)
		}
		return true
	})
	return names
}

func TestEveryHandleHasExactlyOneImplementation(t *testing.T) {
	short, bulk, control := recorder{}, recorder{}, recorder{}
	(&Host{}).Register(short, bulk)
	(&Control{}).Register(control)
	all := recorder{}
	for _, r := range []recorder{short, bulk, control} {
		for name, n := range r {
			all[name] += n
		}
	}
	require.Equal(t, handleNames(t), slices.Sorted(maps.Keys(all)))
	for name, n := range all {
		require.Equal(t, 1, n, name)
	}
	require.Contains(t, short, contract.Watch.Name, "the liveness heartbeat must not wait behind copies")
}
