package cli

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"understudy/internal/model"
)

const (
	agentSettings  = "/etc/understudy/agent.conf"
	serverSettings = "/etc/understudy/server.conf"
)

// setting is one line of a file under /etc/understudy.
type setting struct{ name, value string }

// addSettings appends what a file of the package does not set yet, and says what it appended. What the administrator set
// stays; a file that is not there is not ours to make (a host without the package).
func addSettings(path, by string, want []setting) ([]setting, error) {
	old, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, model.Fail(model.Internal, err, "cannot read %s", path)
	}
	lines := strings.Split(string(old), "\n")
	var added []setting
	text := "# Added by understudy " + by + "\n"
	for _, s := range want {
		if slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(strings.TrimSpace(l), s.name+"=") }) {
			continue
		}
		added = append(added, s)
		text += s.name + "=" + s.value + "\n"
	}
	if len(added) == 0 {
		return nil, nil
	}
	if len(old) > 0 && old[len(old)-1] != '\n' {
		text = "\n" + text // the last line may be unfinished
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		_, err = f.WriteString(text)
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err != nil {
		return nil, model.Fail(model.Internal, err, "cannot add to %s", path)
	}
	return added, nil
}
