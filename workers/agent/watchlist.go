package agent

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"understudy/internal/durable"
	"understudy/internal/model"
)

// entry is a VM that is served here as primary, as it survives the agent.
type entry struct {
	VM         model.VMRef      `json:"vm"`
	Generation model.Generation `json:"generation"`
	RPO        time.Duration    `json:"rpo_ns"`
	Committed  model.PointRef   `json:"committed"`
	// Muted: another generation was seen, so this host may not be the primary any more. It is counted on, and nothing is told.
	Muted bool `json:"muted"`
	// Runs is what the control plane was told last: a VM that should run and does not has vanished.
	Runs bool `json:"runs"`
	// Blind: the entry was lost and made anew, so the oldest write since the last capture is not known until the next.
	Blind bool  `json:"blind"`
	Meter meter `json:"meter"`
	Claim claim `json:"claim,omitzero"`

	budget   budget
	trend    trend
	down     bool      // it is off; Runs follows when that was delivered
	why      string    // it is off
	fired    time.Time // its watchdog is about to end it
	tell     string    // why a signal is due that the budget held back; empty for none
	grown    grown
	recalled recalled
	late     late

	answering   model.PointRef // the first write after this capture is told with an answer
	answeringAt time.Time

	toldUse float64 // of the link, as its protection knows it
}

// started begins a new account: what was written here in an earlier role is not in this VM. A repeated start of the same
// generation changes nothing.
func (e *entry) started(g model.Generation, at time.Time) {
	if g > e.Generation {
		e.Meter = meter{Last: &sample{At: at}}
		e.Blind = false
	}
	e.Runs, e.down = true, false
}

// committed takes in that a point is verified; one of a capture that this entry saw ends its blindness.
func (e *entry) committed(p model.PointRef) {
	for _, c := range e.Meter.Open {
		e.Blind = e.Blind && c.Point != p
	}
	e.Meter.verified(p)
	if p.Seq > e.Committed.Seq {
		e.Committed = p
	}
}

// watchlist is the folder of entries, one file a VM.
type watchlist struct {
	dir string
	log *slog.Logger
}

// openWatchlist reads all entries. One that cannot be read is left out and said: the next activity about its VM makes a new one.
func openWatchlist(dir string, log *slog.Logger) (watchlist, map[string]*entry, error) {
	l := watchlist{dir: dir, log: log}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return l, nil, model.Fail(model.Internal, err, "cannot make the folder of watched VMs")
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return l, nil, model.Fail(model.Internal, err, "cannot list the folder of watched VMs")
	}
	entries := map[string]*entry{}
	for _, f := range files {
		uuid, ok := strings.CutSuffix(f.Name(), ".json")
		if !ok || !model.ValidUUID(uuid) {
			continue
		}
		var e entry
		if err := durable.ReadJSON(l.path(uuid), &e); err != nil || e.VM.UUID != uuid {
			log.Error("watched_vm_unreadable", "file", f.Name(), "error", err)
			continue
		}
		entries[uuid] = &e
	}
	return l, entries, nil
}

func (l watchlist) path(uuid string) string { return filepath.Join(l.dir, uuid+".json") }

// save keeps an entry. A failure is only logged: in memory all is right, and after a restart the older file makes exposure
// longer, never shorter.
func (l watchlist) save(e *entry) {
	if !model.ValidUUID(e.VM.UUID) {
		return
	}
	if err := durable.WriteJSON(l.path(e.VM.UUID), e); err != nil {
		l.log.Error("watched_vm_not_saved", "vm", e.VM.Name, "error", err)
	}
}

func (l watchlist) remove(uuid string) error {
	if !model.ValidUUID(uuid) {
		return nil
	}
	return durable.Remove(l.path(uuid))
}
