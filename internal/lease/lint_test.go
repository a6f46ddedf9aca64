package lease

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Go's clock is CLOCK_MONOTONIC, which stands still while a host sleeps [C8], and its wall clock is what anybody can set.
func TestNoOtherClockIsReadInLeaseAndGuardCode(t *testing.T) {
	forbidden := []string{"Now", "Since", "Until", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick", "Sleep"}
	deadlines := []string{"WithTimeout", "WithDeadline", "WithTimeoutCause", "WithDeadlineCause"}
	// These bound one request, so they can only make a lease shorter.
	requests := []string{"../lease/renew.go"}
	for _, dir := range []string{"../lease", "../guard"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		require.NoError(t, err)
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			src, err := os.ReadFile(name)
			require.NoError(t, err)
			set := token.NewFileSet()
			f, err := parser.ParseFile(set, name, src, 0)
			require.NoError(t, err)
			ast.Inspect(f, func(n ast.Node) bool {
				sel, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				pkg, ok := sel.X.(*ast.Ident)
				if !ok {
					return true
				}
				at := set.Position(n.Pos())
				if pkg.Name == "time" && slices.Contains(forbidden, sel.Sel.Name) {
					t.Errorf("%s reads time.%s", at, sel.Sel.Name)
				}
				if pkg.Name == "context" && slices.Contains(deadlines, sel.Sel.Name) && !slices.Contains(requests, name) {
					t.Errorf("%s uses context.%s", at, sel.Sel.Name)
				}
				return true
			})
		}
	}
}
