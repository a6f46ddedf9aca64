package lease

import (
	"bytes"
	"encoding/json"

	"understudy/internal/model"
)

// EncodeRenew writes a renewal: JSON, bounded by whoever carries it.
func EncodeRenew(in RenewIn) ([]byte, error) { return json.Marshal(in) }

// DecodeRenew refuses what no holder would send.
func DecodeRenew(b []byte) (RenewIn, error) {
	var in RenewIn
	if err := strict(b, &in); err != nil {
		return in, err
	}
	if !model.ValidHostID(in.Host) || len(in.Asks) > MaxAsks || len(in.Instance) > 64 || len(in.BootID) > 64 {
		return RenewIn{}, model.Fail(model.InvalidArgument, nil, "a renewal names its host and at most %d VMs", MaxAsks)
	}
	for _, a := range in.Asks {
		if !model.ValidUUID(a.VM) || a.Generation == 0 {
			return RenewIn{}, model.Fail(model.InvalidArgument, nil, "a renewal asks for a VM's UUID and a generation")
		}
	}
	return in, nil
}

// EncodeAnswer writes an answer.
func EncodeAnswer(out RenewOut) ([]byte, error) { return json.Marshal(out) }

// DecodeAnswer reads one.
func DecodeAnswer(b []byte) (RenewOut, error) {
	var out RenewOut
	if err := strict(b, &out); err != nil {
		return out, err
	}
	if len(out.Answers) > MaxAsks || len(out.Grantor) > 64 {
		return RenewOut{}, model.Fail(model.InvalidArgument, nil, "an answer has at most %d VMs", MaxAsks)
	}
	return out, nil
}

func strict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return model.Fail(model.InvalidArgument, err, "a renewal that cannot be read")
	}
	if d.More() {
		return model.Fail(model.InvalidArgument, nil, "more than one renewal")
	}
	return nil
}

// Answering is the grantor's end of the wire.
func Answering(question []byte, grant func(RenewIn) RenewOut) ([]byte, error) {
	in, err := DecodeRenew(question)
	if err != nil {
		return nil, err
	}
	return EncodeAnswer(grant(in))
}
