package restore

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"understudy/internal/durable"
	"understudy/internal/model"
)

// started is the record of a restored VM, in restored/<uuid>.json.
type started struct {
	VM         model.VMRef      `json:"vm"`
	Generation model.Generation `json:"generation"`
	Point      model.PointRef   `json:"point"`
	// Notes say what differs from the VM as it was: an ejected CD-ROM, a lost vTPM.
	Notes []string `json:"notes"`
	// Previous is the definition that stood here before; Dismantle puts it back.
	Previous  string    `json:"previous,omitempty"`
	StartedAt time.Time `json:"started_at"` // zero until it ran
}

// surrendered says that a running copy was stopped for a takeover, in surrendered/<uuid>.json: when the takeover comes to
// nothing, it is started again.
type surrendered struct {
	VM model.VMRef `json:"vm"`
	At time.Time   `json:"at"`
}

// Kept says what Demote left on a former primary as a rescue copy.
type Kept struct {
	VM    model.VMRef `json:"vm"`
	XML   string      `json:"xml"`   // path of the definition; empty when there never was one
	Disks []string    `json:"disks"` // images of every demotion so far; nothing deletes them
	At    time.Time   `json:"at"`
}

func (r *Restorer) restored(uuid string) string {
	return filepath.Join(r.o.StateDir, "restored", uuid+".json")
}
func (r *Restorer) surrendered(uuid string) string {
	return filepath.Join(r.o.StateDir, "surrendered", uuid+".json")
}
func (r *Restorer) demotedXML(uuid string) string {
	return filepath.Join(r.o.StateDir, "demoted", uuid+".xml")
}
func (r *Restorer) demoted(uuid string) string {
	return filepath.Join(r.o.StateDir, "demoted", uuid+".json")
}

// read reads a record; a missing one leaves v as it is. A damaged one is an error: it may hold the only copy of a definition.
func (r *Restorer) read(path string, v any) error {
	if err := durable.ReadJSON(path, v); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return model.Fail(model.Internal, err, "reading %s", path).WithHost(r.o.Host)
	}
	return nil
}

func (r *Restorer) write(path string, v any) error {
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = durable.WriteJSON(path, v)
	}
	if err != nil {
		return model.Fail(model.Internal, err, "writing %s", path).WithHost(r.o.Host)
	}
	return nil
}

func (r *Restorer) remove(path string) error {
	if err := durable.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return model.Fail(model.Internal, err, "removing %s", path).WithHost(r.o.Host)
	}
	return nil
}

func (k *Kept) add(path string) {
	if path != "" && !slices.Contains(k.Disks, path) {
		k.Disks = append(k.Disks, path)
	}
}
