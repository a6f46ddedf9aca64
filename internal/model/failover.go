package model

import "time"

// EvidenceKind says by which rung of the fence ladder the old VM is known to be off.
type EvidenceKind string

// Rungs.
const (
	EvidenceSurrendered EvidenceKind = "surrendered" // the old agent raised its floor durably, then proved the domain off
	EvidenceFenced      EvidenceKind = "fenced"      // the fence command powered the host off and confirmed it
	EvidencePerson      EvidenceKind = "person"      // a person confirmed that the host is off
	EvidenceSameHost    EvidenceKind = "same-host"   // rollback: the VM never left
	// EvidenceLeaseExpired: the target waited W on its own CLOCK_BOOTTIME after both seals, under an armed guard of the holder.
	EvidenceLeaseExpired EvidenceKind = "lease-expired"
)

// Evidence that the old VM is off. It counts only for the attempt that asked for it.
type Evidence struct {
	Kind       EvidenceKind `json:"kind"`
	Generation Generation   `json:"generation"` // of the attempt
	By         string       `json:"by"`
	Detail     string       `json:"detail"`
	At         time.Time    `json:"at"`
}

// Record is the control plane's durable record of one VM: who may run it. It is the authority; workflows drive it.
type Record struct {
	Version    uint64     `json:"version"` // compare-and-set
	VM         VMRef      `json:"vm"`
	Claimed    Generation `json:"claimed"`
	Target     HostID     `json:"target"` // of the claim
	Attempt    string     `json:"attempt"`
	Permitted  Generation `json:"permitted"` // last generation that may run
	PermitHost HostID     `json:"permit_host"`
	Evidence   *Evidence  `json:"evidence,omitempty"` // of the last permit
	// Mode of the permitted generation as the control plane believes it: never laxer than the holder's. Terms are the holder's.
	Mode  LeaseMode  `json:"mode,omitempty"`
	Terms LeaseTerms `json:"terms"`
	// Standby and Policy are what the protection was when it was last kept here: it is begun again from them when Temporal's
	// database is lost. No permission rests on them.
	Standby   HostID    `json:"standby,omitempty"`
	Policy    *Policy   `json:"policy,omitempty"`
	UpdatedAt time.Time `json:"updated_at"`
}

// Open says that a takeover is under way.
func (r Record) Open() bool { return r.Permitted < r.Claimed }
