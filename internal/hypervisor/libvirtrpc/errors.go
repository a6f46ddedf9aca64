package libvirtrpc

import (
	"errors"
	"strings"

	libvirt "github.com/digitalocean/go-libvirt"

	"understudy/internal/model"
)

// failure makes an error of libvirt one of ours. libvirt's codes are coarse, so some need its words too; a word that changes
// in another version costs a better kind, never a success.
func failure(err error, what string) error {
	if err == nil {
		return nil
	}
	var own *model.Failure
	if errors.As(err, &own) {
		return err
	}
	var e libvirt.Error
	if !errors.As(err, &e) {
		if errors.Is(err, libvirt.ErrUnsupported) {
			return model.Fail(model.Unsupported, err, "%s: this libvirt cannot do it", what)
		}
		return model.Fail(model.Unreachable, err, "%s: the connection to libvirtd was lost; whether it was done is not known", what)
	}
	return model.Fail(kindOf(e), err, "%s", what)
}

func kindOf(e libvirt.Error) model.Kind {
	has := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(e.Message, w) {
				return true
			}
		}
		return false
	}
	switch libvirt.ErrorNumber(e.Code) {
	case libvirt.ErrNoDomain, libvirt.ErrNoDomainCheckpoint:
		return model.NotFound
	case libvirt.ErrCheckpointInconsistent:
		return model.CheckpointLost
	case libvirt.ErrOperationTimeout:
		return model.JobConflict // cannot acquire state change lock
	case libvirt.ErrAgentUnresponsive, libvirt.ErrAgentUnsynced, libvirt.ErrAgentCommandTimeout, libvirt.ErrAgentCommandFailed:
		return model.QuiesceFailed
	case libvirt.ErrOperationInvalid:
		switch {
		case has("not running"):
			return model.NotRunning
		case has("job"):
			return model.JobConflict
		}
	case libvirt.ErrNoSupport, libvirt.ErrConfigUnsupported, libvirt.ErrOperationUnsupported, libvirt.ErrArgumentUnsupported:
		return model.Unsupported
	case libvirt.ErrInvalidArg, libvirt.ErrXMLError, libvirt.ErrXMLDetail, libvirt.ErrXMLInvalidSchema:
		return model.InvalidArgument
	}
	if isBitmapLost(e) {
		return model.CheckpointLost
	}
	return model.Internal
}

func isBitmapLost(e libvirt.Error) bool {
	m := strings.ToLower(e.Message)
	return strings.Contains(m, "bitmap") &&
		(strings.Contains(m, "not found") || strings.Contains(m, "missing") || strings.Contains(m, "inconsistent") || strings.Contains(m, "in use"))
}

func code(err error) libvirt.ErrorNumber {
	var e libvirt.Error
	if errors.As(err, &e) {
		return libvirt.ErrorNumber(e.Code)
	}
	return libvirt.ErrOk
}
