package domainxml

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"understudy/internal/model"
)

func TestXMLThatIsMadeToExhaustIsRefusedBeforeATreeIsMadeOfIt(t *testing.T) {
	const n = MaxSize / 8
	entities := `<!DOCTYPE d [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><domain><name>&b;</name></domain>`
	for name, text := range map[string]string{
		"deeper than a stack": "<domain>" + strings.Repeat("<a>", n) + strings.Repeat("</a>", n) + "</domain>",
		"wide":                "<domain>" + strings.Repeat("<a/>", n) + "</domain>",
		"one of attributes":   "<domain" + strings.Repeat(` a=""`, n) + "/>",
		"of comments":         "<domain>" + strings.Repeat("<!---->", n) + "</domain>",
		"of entities":         entities,
		"an unknown entity":   "<domain><name>&b;</name></domain>",
		"a foreign file":      `<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/shadow">]><domain><name>&x;</name></domain>`,
		"too large":           "<domain>" + strings.Repeat(" ", MaxSize) + "</domain>",
	} {
		_, err := Parse(text)
		require.Equal(t, model.InvalidArgument, model.KindOf(err), name)
	}
}
