package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	urfave "github.com/urfave/cli/v2"
	"go.yaml.in/yaml/v3"

	"understudy/cli"
	"understudy/internal/contract"
	"understudy/workers/agent"
	"understudy/workers/control"
	"understudy/workers/guard"
)

const root = "../.."

// documents by their path from the root.
func documents(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/adr/*.md", "deploy/*/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		require.NoError(t, err)
		for _, f := range found {
			b, err := os.ReadFile(f)
			require.NoError(t, err)
			name, err := filepath.Rel(root, f)
			require.NoError(t, err)
			all[name] = string(b)
		}
	}
	require.Contains(t, all, "README.md")
	return all
}

var (
	link     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	inCode   = regexp.MustCompile("`([^`\n]+)`")
	treePath = regexp.MustCompile(`^(docs|deploy|internal|tests|cli|workers|workflows|activities|starter)/[A-Za-z0-9_.*/-]+$`)
	word     = regexp.MustCompile(`^[a-z][a-z-]*$`)
	heading  = regexp.MustCompile(`(?m)^#+ (.+)$`)
)

func TestWhatDocumentsNameExists(t *testing.T) {
	exists := func(path string) bool {
		found, err := filepath.Glob(path)
		return err == nil && len(found) > 0
	}
	for name, text := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			path, _, _ := strings.Cut(m[1], "#")
			if path == "" || strings.Contains(path, "://") {
				continue
			}
			if !exists(filepath.Join(root, filepath.Dir(name), path)) {
				t.Errorf("%s leads to %s, which is not there", name, m[1])
			}
		}
		for _, m := range inCode.FindAllStringSubmatch(text, -1) {
			if treePath.MatchString(m[1]) && !exists(filepath.Join(root, m[1])) {
				t.Errorf("%s names %s, which is not there", name, m[1])
			}
		}
	}
}

// commandLines are the lines of code blocks and what stands in backticks.
func commandLines(text string) []string {
	var lines []string
	for i, block := range strings.Split(text, "```") {
		if i%2 == 1 {
			block = strings.ReplaceAll(block, "\\\n", " ")
			lines = append(lines, strings.Split(block, "\n")...)
			continue
		}
		for _, m := range inCode.FindAllStringSubmatch(block, -1) {
			lines = append(lines, m[1])
		}
	}
	var out []string
	for _, l := range lines {
		l, _, _ = strings.Cut(l, " #")
		for _, part := range regexp.MustCompile(`&&|\|\s|;`).Split(l, -1) {
			out = append(out, strings.TrimSpace(part))
		}
	}
	return out
}

func TestDocumentsGiveCommandsThatTheProgramHas(t *testing.T) {
	commands := cli.Commands(control.Command(), agent.Command(), agent.TraceCommand(), guard.Command())
	seen := 0
	for name, text := range documents(t) {
		if name == "docs/TRANSCRIPT.md" {
			continue // what the program itself printed
		}
		for _, line := range commandLines(text) {
			words := strings.Fields(strings.NewReplacer("[", "", "]", "", "(", "", ")", "").Replace(line))
			if len(words) < 2 || words[0] != "understudy" || !word.MatchString(words[1]) {
				continue
			}
			seen++
			level := commands
			var have []string
			for i, w := range words[1:] {
				if flag, ok := strings.CutPrefix(w, "--"); ok {
					flag, _, _ = strings.Cut(flag, "=")
					if flag != "help" && !slices.Contains(have, strings.TrimRight(flag, ",.…")) {
						t.Errorf("%s: %q: there is no flag --%s", name, line, flag)
					}
					continue
				}
				at := slices.IndexFunc(level, func(c *urfave.Command) bool { return c.Name == w })
				if at < 0 {
					if i == 0 {
						t.Errorf("%s: %q: there is no command %s", name, line, w)
						break
					}
					continue
				}
				for _, f := range level[at].Flags {
					have = append(have, f.Names()...)
				}
				level = level[at].Subcommands
			}
		}
	}
	require.Greater(t, seen, 50, "the lines are found at all")
}

func TestDocumentsNameTargetsThatTheMakefileHas(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(root, "Makefile"))
	require.NoError(t, err)
	for name, text := range documents(t) {
		for _, line := range commandLines(text) {
			words := strings.Fields(line)
			if len(words) < 2 || words[0] != "make" || !word.MatchString(words[1]) {
				continue
			}
			if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(words[1]) + `:`).Match(b) {
				t.Errorf("%s: make %s is no target", name, words[1])
			}
		}
	}
}

// Whoever is woken by an alert finds what to do under its name.
func TestEachAlertHasARunbook(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(root, "deploy", "prometheus", "alerts.yml"))
	require.NoError(t, err)
	var file struct {
		Groups []struct {
			Rules []struct{ Alert string }
		}
	}
	require.NoError(t, yaml.Unmarshal(b, &file))
	var headings []string
	for _, m := range heading.FindAllStringSubmatch(documents(t)["docs/OPERATIONS.md"], -1) {
		headings = append(headings, strings.Split(m[1], ", ")...)
	}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			require.Contains(t, headings, r.Alert, "docs/OPERATIONS.md")
		}
	}
}

// The signal that people send without us is one that a protection understands.
func TestTheSignalForOtherToolsIsTheProtections(t *testing.T) {
	line := regexp.MustCompile(`(?m)^temporal workflow signal --namespace (\S+) --workflow-id (\S+) --name (\S+) --input '(.+)'$`).
		FindStringSubmatch(documents(t)["docs/OPERATIONS.md"])
	require.NotNil(t, line)
	require.Equal(t, []string{"understudy", contract.ProtectID("UUID"), contract.SigCrash.Name}, line[1:4])
	var in contract.CrashIn
	d := json.NewDecoder(strings.NewReader(line[4]))
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(&in))
	require.NotEmpty(t, in.Source)
	require.NotEmpty(t, in.Reason)
}
