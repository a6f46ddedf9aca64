package snapshot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"understudy/internal/blockio"
	"understudy/internal/durable"
	"understudy/internal/model"
)

// Files of captures/<uuid>/. open.json is the open snapshot; Settle renames it to committed.json, which says what the kept
// checkpoint covers. autostart.json says that libvirt's autostart was on before we took over.
const (
	openFile      = "open.json"
	committedFile = "committed.json"
	autostartFile = "autostart.json"
)

// record is an open or committed snapshot and what it was asked for.
type record struct {
	Snapshot Snapshot       `json:"snapshot"`
	Parent   model.PointRef `json:"parent"`
	Forced   string         `json:"forced,omitempty"`
	Freeze   bool           `json:"freeze"`
	Socket   string         `json:"socket"`
	Tracked  []string       `json:"tracked"` // targets with a bitmap of this point's checkpoint
}

func (r record) disk(target string) (model.SnapshotDisk, bool) {
	for _, d := range r.Snapshot.Disks {
		if d.Target == target {
			return d, true
		}
	}
	return model.SnapshotDisk{}, false
}

func (r record) allTracked() bool { return len(r.Tracked) == len(r.Snapshot.Disks) }

func (s *Source) dir(uuid string) string        { return filepath.Join(s.o.StateDir, "captures", uuid) }
func (s *Source) scratch(uuid string) string    { return filepath.Join(s.o.StateDir, "scratch", uuid) }
func (s *Source) file(uuid, name string) string { return filepath.Join(s.dir(uuid), name) }

// readRecord reads what was written by writeRecord. A damaged record counts as none: what follows is a resync.
func (s *Source) readRecord(uuid, name string) (record, bool) {
	var r record
	if err := durable.ReadJSON(s.file(uuid, name), &r); err != nil || r.Snapshot.Point.IsZero() {
		return record{}, false
	}
	return r, true
}

// writeRecord replaces a record at once for readers; it does not force it to the disk (see the package comment).
func (s *Source) writeRecord(uuid, name string, r record) error {
	if err := os.MkdirAll(s.dir(uuid), 0o700); err != nil {
		return err
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if len(b) > durable.MaxFile { // readRecord would not read it
		return fmt.Errorf("the record has %d bytes, more than %d: the domain's description is too large", len(b), durable.MaxFile)
	}
	tmp := s.file(uuid, "."+name+".new")
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, s.file(uuid, name))
}

func (s *Source) dropRecord(uuid, name string) error { return removeFile(s.file(uuid, name)) }

// promote makes the open snapshot's record the committed one. It is called when its job has ended.
func (s *Source) promote(uuid string) error {
	return os.Rename(s.file(uuid, openFile), s.file(uuid, committedFile))
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func isNoMap(err error) bool { return errors.Is(err, blockio.ErrNoMap) }
