package contract

import (
	"errors"
	"fmt"

	"go.temporal.io/sdk/temporal"

	"understudy/internal/model"
)

// Detail goes with every typed error on the wire, so that the CLI can name the VM and host and what to try next.
type Detail struct {
	VM   string       `json:"vm"`
	Host model.HostID `json:"host"`
	Try  string       `json:"try"`
}

// Refuse makes the typed, final error of a workflow. Nothing may wrap it: a wrapped error loses type and finality.
func Refuse(kind model.Kind, d Detail, format string, args ...any) error {
	return temporal.NewNonRetryableApplicationError(fmt.Sprintf(format, args...), string(kind), nil, d)
}

// RefuseFailure translates a domain failure found by a workflow itself (a policy that does not validate).
func RefuseFailure(err error) error {
	var f *model.Failure
	if !errors.As(err, &f) {
		return Refuse(model.Internal, Detail{}, "%v", err)
	}
	return Refuse(f.Kind, Detail{VM: f.VM, Host: f.Host, Try: f.Try}, "%s", f.Error())
}
