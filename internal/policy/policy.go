// Package policy reads policy files: YAML, strict, each refusal with its line and reason. What it accepts is honoured by the
// running system; what the system does not do yet is refused by name, never ignored. docs/POLICY_FILE.md is its document.
//
// What the file may hold is one table (fields.go), from which both the parser and the JSON schema are made.
package policy

import (
	"errors"
	"fmt"
	"sort"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"understudy/internal/model"
)

// Version of the format.
const Version = 1

// maxFile bounds what is read; a policy of every option is under 4 KiB.
const maxFile = 64 << 10

// Problem is one reason why a file is refused.
type Problem struct {
	Line   int    `json:"line"`
	Column int    `json:"column"`
	Reason string `json:"reason"`
}

// Error has all problems of a file, by line.
type Error struct {
	File     string
	Problems []Problem
}

func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = fmt.Sprintf("%s:%d:%d: %s", e.File, p.Line, p.Column, p.Reason)
	}
	return strings.Join(lines, "\n")
}

// Parse reads a policy file; name is for the messages only. now is where the rules of the time zone begin.
func Parse(name string, data []byte, now time.Time) (model.Policy, error) {
	d := &decoder{now: now}
	p := d.file(data)
	if len(d.problems) == 0 {
		// The parser knows the contradictions and their lines; this is for one that it does not know.
		if err := p.Validate(); err != nil {
			d.fail(&yaml.Node{Line: 1, Column: 1}, "%s", reason(err))
		}
	}
	if len(d.problems) > 0 {
		sort.SliceStable(d.problems, func(i, j int) bool {
			a, b := d.problems[i], d.problems[j]
			return a.Line < b.Line || a.Line == b.Line && a.Column < b.Column
		})
		return model.Policy{}, &Error{File: name, Problems: d.problems}
	}
	return p, nil
}

// reason is an error without what to try: the line says where.
func reason(err error) string {
	var f *model.Failure
	if !errors.As(err, &f) {
		return err.Error()
	}
	if f.Err != nil {
		return f.What + ": " + reason(f.Err)
	}
	return f.What
}
