// Command tally reads `go test -json` streams on standard input, shows them as they come in a short form, and ends with
// the plain line "N passed, N failed, N skipped" that CI reads. It exits 1 when anything failed or nothing ran.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
)

type event struct {
	Action  string
	Package string
	Test    string
	Output  string
	Elapsed float64
}

type tally struct {
	passed, failed, skipped int
	failures                []string
	skips                   map[string]string
	output                  map[string][]string
}

// keep bounds what is remembered of one test's output, in lines.
const keep = 400

func main() {
	t := tally{skips: map[string]string{}, output: map[string][]string{}}
	t.read(os.Stdin, os.Stdout)
	os.Exit(t.close(os.Stdout))
}

func (t *tally) read(r io.Reader, w io.Writer) {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 64<<10), 16<<20)
	for sc.Scan() {
		var e event
		if json.Unmarshal(sc.Bytes(), &e) != nil || e.Action == "" {
			fmt.Fprintln(w, sc.Text())
			continue
		}
		t.take(e, w)
	}
	if err := sc.Err(); err != nil {
		t.failed++
		t.failures = append(t.failures, "reading the test output: "+err.Error())
	}
}

func (t *tally) take(e event, w io.Writer) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output", "build-output":
		if lines := t.output[key]; len(lines) < keep {
			t.output[key] = append(lines, e.Output)
		}
	case "build-fail":
		fmt.Fprint(w, strings.Join(t.output[key], ""))
	case "pass", "fail", "skip":
		t.end(e, key, w)
	}
}

func (t *tally) end(e event, key string, w io.Writer) {
	if e.Test == "" {
		if e.Action == "fail" {
			fmt.Fprint(w, strings.Join(t.output[key], ""))
			if !t.failedIn(e.Package) { // did not build, or died outside a test
				t.failed++
				t.failures = append(t.failures, e.Package)
			}
		}
		if e.Action != "skip" {
			fmt.Fprintf(w, "%-5s %s (%.1f s)\n", e.Action, e.Package, e.Elapsed)
		}
		return
	}
	switch e.Action {
	case "pass":
		t.passed++
	case "skip":
		t.skipped++
		t.skips[key] = reason(t.output[key])
	case "fail":
		t.failed++
		t.failures = append(t.failures, key)
		fmt.Fprint(w, strings.Join(t.output[key], ""))
	}
	delete(t.output, key)
}

func (t *tally) failedIn(pkg string) bool {
	for _, f := range t.failures {
		if strings.HasPrefix(f, pkg+" ") {
			return true
		}
	}
	return false
}

func (t *tally) close(w io.Writer) int {
	if len(t.skips) > 0 {
		fmt.Fprintln(w, "\nskipped:")
		keys := make([]string, 0, len(t.skips))
		for k := range t.skips {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		for _, k := range keys {
			fmt.Fprintf(w, "  %s: %s\n", k, t.skips[k])
		}
	}
	if len(t.failures) > 0 {
		fmt.Fprintln(w, "\nfailed:")
		for _, f := range t.failures {
			fmt.Fprintln(w, "  "+f)
		}
	}
	if t.passed+t.failed == 0 {
		t.failed++
		fmt.Fprintln(w, "no test ran")
	}
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", t.passed, t.failed, t.skipped)
	if t.failed > 0 {
		return 1
	}
	return 0
}

// reason is the text that t.Skip printed: the line before the closing "--- SKIP".
func reason(lines []string) string {
	for i := len(lines) - 1; i >= 0; i-- {
		s := strings.TrimSpace(lines[i])
		if s != "" && !strings.HasPrefix(s, "---") && !strings.HasPrefix(s, "===") {
			return s
		}
	}
	return "no reason given"
}
