package model

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Kind is the class of a failure. It decides whether a retry can help, what the workflow does, and the exit code.
// The activities map it once to a Temporal error type of the same name.
type Kind string

// The kinds. See activities/errors.go for the reaction to each and docs/CLI.md for the exit codes.
const (
	InvalidArgument   Kind = "InvalidArgument"   // the caller's fault; exit 64
	NotFound          Kind = "NotFound"          // VM, disk, point or host does not exist; exit 10
	Conflict          Kind = "Conflict"          // already protected, failover running; exit 11
	Unsupported       Kind = "Unsupported"       // this disk or this libvirt cannot do it; exit 12
	Refused           Kind = "Refused"           // would be unsafe (path outside the allowed folders …); exit 12
	CheckpointLost    Kind = "CheckpointLost"    // bitmap missing, in use or inconsistent: resync
	ForeignCheckpoint Kind = "ForeignCheckpoint" // somebody else's mark is in the way: ask
	JobConflict       Kind = "JobConflict"       // another job holds the domain: wait
	QuiesceFailed     Kind = "QuiesceFailed"     // guest agent did not freeze
	NotRunning        Kind = "NotRunning"        // the domain is not running, so there is nothing to snapshot
	LinkDown          Kind = "LinkDown"          // the two agents cannot talk
	TargetFull        Kind = "TargetFull"        // no room on the standby; exit 1
	ChainBroken       Kind = "ChainBroken"       // a parent layer is missing on the standby: full
	StagingLost       Kind = "StagingLost"       // what was replicated is no longer there: replicate again
	VerifyMismatch    Kind = "VerifyMismatch"    // the copy is not what was sent: drop it
	StaleGeneration   Kind = "StaleGeneration"   // a newer owner exists: stop at once
	FenceUnconfirmed  Kind = "FenceUnconfirmed"  // the old VM cannot be proved off; exit 12
	Unreachable       Kind = "Unreachable"       // libvirtd or a host does not answer
	Internal          Kind = "Internal"          // everything else
)

// Failure is an error for people and for machines: what failed, on which VM and host, why, and what to try next.
type Failure struct {
	Kind       Kind
	VM         string
	Host       HostID
	What       string        // what was attempted or found, in plain words
	Try        string        // next command or action; may be empty
	RetryAfter time.Duration // when a retry makes sense; 0 leaves it to the policy
	Err        error         // cause; may be nil
}

func (f *Failure) Error() string {
	var b strings.Builder
	b.WriteString(f.What)
	switch {
	case f.VM != "" && f.Host != "":
		fmt.Fprintf(&b, " (VM %s on %s)", f.VM, f.Host)
	case f.VM != "":
		fmt.Fprintf(&b, " (VM %s)", f.VM)
	case f.Host != "":
		fmt.Fprintf(&b, " (host %s)", f.Host)
	}
	if f.Err != nil {
		fmt.Fprintf(&b, ": %v", f.Err)
	}
	if f.Try != "" {
		fmt.Fprintf(&b, ". Try: %s", f.Try)
	}
	return b.String()
}

func (f *Failure) Unwrap() error { return f.Err }

// Fail makes a Failure; the With… methods add what is known further out.
func Fail(kind Kind, cause error, format string, args ...any) *Failure {
	return &Failure{Kind: kind, What: fmt.Sprintf(format, args...), Err: cause}
}

// WithTry returns f with the next action to try.
func (f *Failure) WithTry(try string) *Failure { f.Try = try; return f }

// WithVM returns f with the VM's name.
func (f *Failure) WithVM(vm string) *Failure { f.VM = vm; return f }

// WithHost returns f with the host it happened on.
func (f *Failure) WithHost(h HostID) *Failure { f.Host = h; return f }

// KindOf returns the kind of the outermost Failure in err's chain, or Internal.
func KindOf(err error) Kind {
	var f *Failure
	if errors.As(err, &f) {
		return f.Kind
	}
	return Internal
}
