package ui

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Output is how results are printed.
type Output string

// Outputs.
const (
	Table Output = "table" // for people
	JSON  Output = "json"  // one document
	JSONL Output = "jsonl" // one object a line
)

// ParseOutput reads the value of --output.
func ParseOutput(s string) (Output, error) {
	switch o := Output(s); o {
	case Table, JSON, JSONL:
		return o, nil
	}
	return "", fmt.Errorf("output must be one of table, json, jsonl, not %q", s)
}

// Print writes v as a document, or as one line.
func Print(w io.Writer, o Output, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if o == JSON {
		enc.SetIndent("", "  ")
	}
	return enc.Encode(v)
}

// Rows writes a table.
func Rows(w io.Writer, header []string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 2, 8, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(header, "\t"))
	for _, r := range rows {
		for i, cell := range r {
			r[i] = plain(cell)
		}
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	return t.Flush()
}

// plain keeps what came from a guest or a host from moving the cursor or breaking the table.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// Confirm asks a yes-or-no question; anything but yes is no.
func Confirm(in io.Reader, out io.Writer, question string) bool {
	fmt.Fprintf(out, "%s [y/N] ", question)
	answer, _ := bufio.NewReader(in).ReadString('\n') // an end of input is a no
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return true
	}
	return false
}
