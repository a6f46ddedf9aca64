package contract

import "understudy/internal/model"

// KeepIn puts what a protection is beside its record, so that it can be begun again when Temporal's database is lost.
type KeepIn struct {
	Fence
	Standby model.HostID `json:"standby"`
	Policy  model.Policy `json:"policy"`
}

// RecordsOut are all records.
type RecordsOut struct {
	Records []model.Record `json:"records"`
}

// Recovered is what became of one record.
type Recovered struct {
	VM     model.VMRef `json:"vm"`
	Result string      `json:"result"` // "recovered", "runs", "failed"
	Detail string      `json:"detail,omitempty"`
}

// Results of Recovered.
const (
	RecoverDone   = "recovered"
	RecoverRuns   = "runs"
	RecoverFailed = "failed"
)

// RecoverOut is the result of the Recover workflow.
type RecoverOut struct {
	Recovered []Recovered `json:"recovered"`
}

// RecoverName is the workflow that begins protections again from the records; RecoverID its only id.
const (
	RecoverName = "Recover"
	RecoverID   = "recover"
)

// Activities of the control plane's records.
var (
	Keep        = Activity[KeepIn, None]{"keep", controlOptions(10, 5)}
	ListRecords = Activity[None, RecordsOut]{"list-records", controlOptions(20, 3)}
)
