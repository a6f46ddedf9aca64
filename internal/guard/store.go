package guard

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"understudy/internal/durable"
	"understudy/internal/model"
)

// record is what binds one VM in this boot. It lies in a tmpfs: a boot ends it, a restart of the guard does not.
type record struct {
	UUID   string `json:"uuid"`
	BootID string `json:"boot_id"`
	// Generation that is armed; 0: none since this boot.
	Generation model.Generation `json:"generation"`
	// Floor is the lowest generation that may be armed; above Generation: this one was given up.
	Floor    model.Generation `json:"floor"`
	Deadline model.BootTime   `json:"deadline"`
	Mode     model.LeaseMode  `json:"mode,omitempty"`
	Action   model.Isolation  `json:"action,omitempty"`
	// Cut ends the lease before its deadline; the next deadline that lies ahead takes it back.
	Cut bool `json:"cut,omitempty"`
	// Stopped: copies that were started before are to be killed.
	Stopped model.BootTime `json:"stopped,omitempty"`
	Frozen  []frozen       `json:"frozen,omitempty"`
}

// protected is the durable list. It is the authority: a VM on it without a record of this boot may not run, a record without
// an entry here is left over.
type protected struct {
	UUIDs []string `json:"uuids"`
}

// store keeps both. The list is written rarely and may wait for a disk; records are written at each renewal and never do.
type store struct{ records, list string }

// ListFile is the durable list of the VMs that may not run on this host without a word of the guard.
func ListFile(stateDir string) string { return filepath.Join(stateDir, "guard", "protected.json") }

// Protected reads the list without the guard: what the start gate knows when it does not answer.
func Protected(stateDir string) ([]string, error) {
	var p protected
	err := durable.ReadJSON(ListFile(stateDir), &p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return p.UUIDs, err
}

func openStore(runDir, stateDir string) (store, error) {
	s := store{filepath.Join(runDir, "guard"), ListFile(stateDir)}
	for _, dir := range []string{s.records, filepath.Dir(s.list)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return s, model.Fail(model.Internal, err, "cannot make the guard's folder")
		}
	}
	return s, nil
}

func (s store) writeList(uuids []string) error {
	slices.Sort(uuids)
	return durable.WriteJSON(s.list, protected{uuids})
}

func (s store) path(uuid string) string { return filepath.Join(s.records, uuid+".json") }

func (s store) write(r record) error { return durable.WriteJSON(s.path(r.UUID), r) }

func (s store) remove(uuid string) error {
	if err := os.Remove(s.path(uuid)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// read returns the record of this boot; one of another boot or a damaged one is none, so the VM stands until it is armed.
func (s store) read(uuid, boot string) (record, error) {
	var r record
	err := durable.ReadJSON(s.path(uuid), &r)
	if err == nil && r.BootID == boot && r.UUID == uuid {
		return r, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return record{UUID: uuid, BootID: boot}, err
}

// tidy removes the records of VMs that are not on the list: an arming or a forgetting that was never acknowledged.
func (s store) tidy(listed func(uuid string) bool) {
	files, err := os.ReadDir(s.records)
	if err != nil {
		return
	}
	for _, f := range files {
		if uuid, ok := strings.CutSuffix(f.Name(), ".json"); !ok || !listed(uuid) {
			_ = os.Remove(filepath.Join(s.records, f.Name()))
		}
	}
}

func pidText(pid int) string { return strconv.Itoa(pid) }
