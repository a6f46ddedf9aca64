package cli

import (
	"context"
	"errors"
	"fmt"

	"understudy/internal/model"
	"understudy/internal/policy"
	"understudy/internal/ui"
)

// interrupted ends a command whose watcher left; note says what goes on.
type interrupted struct{ note string }

func (i interrupted) Error() string { return "interrupted: " + i.note }
func (i interrupted) Unwrap() error { return context.Canceled }

// leaving turns the end of the watcher into interrupted and keeps every other error.
func leaving(ctx context.Context, err error, format string, args ...any) error {
	if err != nil && ctx.Err() != nil {
		return interrupted{fmt.Sprintf(format, args...)}
	}
	return err
}

// problem is the error object on standard error with --output json.
type problem struct {
	MessageType string     `json:"message_type"` // "error"
	Kind        model.Kind `json:"kind"`
	ExitCode    int        `json:"exit_code"`
	What        string     `json:"what"`
	VM          string     `json:"vm,omitempty"`
	Host        string     `json:"host,omitempty"`
	Why         string     `json:"why,omitempty"`
	Try         string     `json:"try,omitempty"`
	Choices     []string   `json:"choices,omitempty"`
	// Problems are those of a policy file.
	Problems []policy.Problem `json:"problems,omitempty"`
}

func problemOf(err error, code int) problem {
	p := problem{MessageType: "error", Kind: model.Internal, ExitCode: code, What: err.Error()}
	var f *model.Failure
	var i interrupted
	var file *policy.Error
	switch {
	case errors.As(err, &i):
		p.Kind, p.What = "Interrupted", i.note
	case errors.As(err, &f):
		p.Kind, p.What, p.VM, p.Host, p.Try = f.Kind, f.What, f.VM, string(f.Host), f.Try
		if errors.As(f.Err, &file) {
			p.Problems = file.Problems
		} else if f.Err != nil {
			p.Why = f.Err.Error()
		}
		if f.Kind == model.FenceUnconfirmed {
			p.Choices = choices(f)
		}
	case code == exitInterrupted:
		p.Kind, p.What = "Interrupted", "interrupted"
	case code == exitUsage:
		p.Kind = model.InvalidArgument
	}
	return p
}

// choices are what a person can do when nobody can prove that the old VM is off.
func choices(f *model.Failure) []string {
	host := string(f.Host)
	if host == "" {
		host = "the old host"
	}
	return []string{
		"bring " + host + " back: when its agent is heard, the VM goes on there and nothing is lost",
		"make sure that " + host + " is powered off, then: understudy failover --confirm-primary-down " + f.VM,
		"repair or configure power fencing: understudy server --fence-command",
	}
}

// report prints an error: what, which VM and host, why, and what to try next.
func (e *env) report(err error, code int, asJSON bool) {
	p := problemOf(err, code)
	if asJSON {
		_ = ui.Print(e.err, ui.JSONL, p) // nobody is left to hear that standard error is gone
		return
	}
	fmt.Fprintf(e.err, "understudy: %s\n", p.What)
	var file *policy.Error
	if errors.As(err, &file) {
		fmt.Fprintln(e.err, file)
	}
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(e.err, "  %-5s %s\n", name, value)
		}
	}
	line("VM:", p.VM)
	line("host:", p.Host)
	line("why:", p.Why)
	line("Try:", p.Try)
	for i, c := range p.Choices {
		if i == 0 {
			fmt.Fprintln(e.err, "  Choices:")
		}
		fmt.Fprintf(e.err, "   %d. %s\n", i+1, c)
	}
}
