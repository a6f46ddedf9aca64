package link

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"understudy/internal/model"
)

// failureKey is the trailer that carries a failure of the standby.
const failureKey = "understudy-failure-bin"

// maxText bounds each text of a failure on the wire: trailers are small.
const maxText = 1 << 10

type wireFailure struct {
	Kind  model.Kind   `json:"kind"`
	VM    string       `json:"vm,omitempty"`
	Host  model.HostID `json:"host,omitempty"`
	What  string       `json:"what"`
	Try   string       `json:"try,omitempty"`
	Cause string       `json:"cause,omitempty"`
	Retry int64        `json:"retry_ms,omitempty"`
}

func clip(s string) string {
	if len(s) > maxText {
		s = s[:maxText] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}

// failureTrailer is what a standby says of err.
func failureTrailer(err error, vm model.VMRef, self model.HostID) metadata.MD {
	var f *model.Failure
	if !errors.As(err, &f) {
		kind := model.Internal
		if errors.Is(err, errFrame) {
			kind = model.InvalidArgument
		}
		f = model.Fail(kind, err, "receiving a replication")
	}
	w := wireFailure{Kind: f.Kind, VM: clip(f.VM), Host: f.Host, What: clip(f.What), Try: clip(f.Try), Retry: f.RetryAfter.Milliseconds()}
	if w.VM == "" {
		w.VM = clip(vm.Name)
	}
	if w.Host == "" {
		w.Host = self
	}
	if f.Err != nil {
		w.Cause = clip(f.Err.Error())
	}
	p, _ := json.Marshal(w) // texts and a number: it cannot fail
	return metadata.Pairs(failureKey, string(p))
}

// failureFrom reads what failureTrailer made; nil when there is none that makes sense.
func failureFrom(md metadata.MD) *model.Failure {
	values := md.Get(failureKey)
	if len(values) != 1 {
		return nil
	}
	var w wireFailure
	if err := json.Unmarshal([]byte(values[0]), &w); err != nil || w.Kind == "" || len(w.Kind) > 64 {
		return nil //nolint:nilerr // what makes no sense says nothing
	}
	f := model.Fail(w.Kind, nil, "%s", clip(w.What)).WithVM(clip(w.VM)).WithTry(clip(w.Try))
	if model.ValidHostID(w.Host) {
		f.Host = w.Host
	}
	if w.Cause != "" {
		f.Err = errors.New(clip(w.Cause))
	}
	if w.Retry > 0 {
		f.RetryAfter = min(time.Duration(w.Retry), 3_600_000) * time.Millisecond
	}
	return f
}

// down says that the peer at address cannot be talked to.
func down(err error, address, what string) *model.Failure {
	return model.Fail(model.LinkDown, err, "%s at %s", what, address).
		WithTry("check that the agent of that host runs and that its link address can be reached: understudy hosts")
}

// fromStatus turns an error of gRPC into ours: what the standby said, what the caller did, or a link that is down.
func fromStatus(ctx context.Context, err error, md metadata.MD, address, what string) error {
	if f := failureFrom(md); f != nil {
		return f
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	switch status.Code(err) {
	case codes.Unimplemented, codes.ResourceExhausted, codes.InvalidArgument:
		return model.Fail(model.Internal, err, "%s at %s: the agents do not understand each other", what, address).
			WithTry("run the same version of understudy on both hosts")
	}
	return down(err, address, what)
}
