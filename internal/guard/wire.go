// Package guard stops a protected VM on this host when its lease runs out, and gates every start. It has no network, no
// libvirt and no configuration but its socket and its two folders, so that nothing which fails beside it can keep it from
// acting. What it may do is laid down in the single-writer protocol, docs/adr/0013.
package guard

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"regexp"
	"strings"

	"understudy/internal/model"
)

// Operations of the socket: one JSON object a line each way.
const (
	opArm      = "arm"
	opForget   = "forget"
	opStop     = "stop"
	opFreeze   = "freeze"
	opState    = "state"
	opMayStart = "may-start"
	opList     = "list"
)

// maxLine bounds a request; an answer is bounded by maxAnswer, because a list has a line for all VMs.
const (
	maxLine   = 16 << 10
	maxAnswer = 8 << 20
)

type request struct {
	Op         string           `json:"op"`
	UUID       string           `json:"uuid,omitempty"`
	Arm        *model.GuardArm  `json:"arm,omitempty"`
	Generation model.Generation `json:"generation,omitempty"` // of stop: below it; of freeze: this one
}

type answer struct {
	OK    bool              `json:"ok"`
	Kind  model.Kind        `json:"kind,omitempty"`
	Error string            `json:"error,omitempty"`
	Try   string            `json:"try,omitempty"`
	State *model.GuardState `json:"state,omitempty"`
	List  []Entry           `json:"list,omitempty"`
}

// Entry is one protected VM as the guard sees it.
type Entry struct {
	UUID       string           `json:"uuid"`
	Generation model.Generation `json:"generation"`
	Floor      model.Generation `json:"floor"` // lower ones are refused
	Mode       model.LeaseMode  `json:"mode,omitempty"`
	Action     model.Isolation  `json:"action,omitempty"`
	Deadline   model.BootTime   `json:"deadline"`
	Left       int64            `json:"left_ns"` // until the deadline; negative when it has passed
	MayStart   bool             `json:"may_start"`
	Why        string           `json:"why,omitempty"` // it may not start
	Copies     []Copy           `json:"copies"`
}

// Copy is one QEMU process of a protected VM.
type Copy struct {
	PID     int            `json:"pid"`
	Started model.BootTime `json:"started"`
	State   string         `json:"state"` // running, frozen, or the order that is not proved yet: freezing, killing
}

var errLineTooLong = errors.New("a line is longer than the guard takes")

// readLine reads one line of at most limit bytes; io.EOF when the peer has said all.
func readLine(r *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > limit {
			return nil, errLineTooLong
		}
		line = append(line, part...)
		switch {
		case err == nil:
			return bytes.TrimRight(line, "\r\n"), nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(line) > 0:
			return nil, io.ErrUnexpectedEOF
		default:
			return nil, err
		}
	}
}

// decodeRequest judges what came over the socket; what it returns is well-formed, not yet allowed.
func decodeRequest(line []byte) (request, error) {
	var r request
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		return r, model.Fail(model.InvalidArgument, err, "not a request")
	}
	if dec.More() {
		return r, model.Fail(model.InvalidArgument, nil, "more than one request in a line")
	}
	switch r.Op {
	case opState, opList:
		return r, nil
	case opArm:
		if r.Arm == nil {
			return r, model.Fail(model.InvalidArgument, nil, "arm without what to arm")
		}
		r.UUID = r.Arm.UUID
	case opForget, opStop, opFreeze, opMayStart:
	default:
		return r, model.Fail(model.InvalidArgument, nil, "no such operation")
	}
	var err error
	if r.UUID, err = canonical(r.UUID); err != nil {
		return r, err
	}
	if r.Arm != nil {
		r.Arm.UUID = r.UUID
	}
	return r, nil
}

var uuidPattern = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// canonical is the one spelling under which a VM is kept; it is also a file's name, so nothing else passes.
func canonical(uuid string) (string, error) {
	u := strings.ToLower(uuid)
	if !uuidPattern.MatchString(u) {
		return "", model.Fail(model.InvalidArgument, nil, "not a UUID: %.60q", uuid)
	}
	return u, nil
}

func failed(err error) answer {
	a := answer{Kind: model.KindOf(err), Error: err.Error()}
	var f *model.Failure
	if errors.As(err, &f) {
		plain := *f
		plain.Try = ""
		a.Error, a.Try = plain.Error(), f.Try
	}
	return a
}

// Socket is where the guard of these folders answers.
func Socket(runDir string) string { return filepath.Join(runDir, "guard.sock") }
