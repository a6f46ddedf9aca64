package policy

import (
	"fmt"
	"io"
	"os"
	"time"

	"understudy/internal/model"
)

// Load reads the policy file at path. Its error is a Failure; one about what the file says wraps an Error.
func Load(path string, now time.Time) (model.Policy, error) {
	data, err := read(path)
	if err != nil {
		return model.Policy{}, model.Fail(model.InvalidArgument, err, "the policy file cannot be read").WithTry("understudy policy check FILE")
	}
	p, err := Parse(path, data, now)
	if err != nil {
		return p, model.Fail(model.InvalidArgument, err, "the policy file %s is refused", path)
	}
	return p, nil
}

// read bounds the file, which may also be a pipe.
func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return nil, fmt.Errorf("%s is a folder", path)
	}
	return io.ReadAll(io.LimitReader(f, maxFile+1))
}
