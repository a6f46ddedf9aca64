package model

import "time"

// Phase is what a protection is doing, for people.
type Phase string

// Phases (the JSON contract of `understudy status`).
const (
	PhaseSeeding     Phase = "Seeding"     // the first full copy is on its way
	PhaseProtected   Phase = "Protected"   // points are made within the target
	PhaseDegraded    Phase = "Degraded"    // points are late or fail; retried by itself
	PhaseSuspended   Phase = "Suspended"   // paused by a person, or the VM is off
	PhaseFailingOver Phase = "FailingOver" // a failover is running
	PhaseFailed      Phase = "Failed"      // a person is needed
)

// RPOState compares exposure with the target.
type RPOState string

// States.
const (
	RPOMet      RPOState = "met"
	RPOAtRisk   RPOState = "at_risk" // exposure above 75 % of the target
	RPOViolated RPOState = "violated"
	RPOUnknown  RPOState = "unknown" // the primary cannot be asked
)

// Binding names what decided the start of the next cycle.
type Binding string

// Bindings; one is always named.
const (
	BindingSlack Binding = "slack" // latest safe start reached
	BindingLoad  Binding = "load"  // the share of the link is busy: start earlier
	BindingTMin  Binding = "tmin"  // least distance of two captures
	// BindingAllocator: other VMs of the host use the link too.
	BindingAllocator Binding = "allocator"
	BindingCPU       Binding = "cpu"     // the CPU budget keeps captures apart, as far as the target allows
	BindingRunning   Binding = "running" // a cycle is under way
	BindingIdle      Binding = "idle"    // nothing was written: no cycle is needed
	BindingSeed      Binding = "seed"    // there is no committed point yet
	BindingRequest   Binding = "request" // a person asked for it
	BindingRetry     Binding = "retry"   // the last cycle failed
	BindingPaused    Binding = "paused"
	BindingWaiting   Binding = "waiting" // the VM is off or a host is silent
)

// Cadence is a decision about the next cycle, with its reason.
type Cadence struct {
	StartIn  time.Duration `json:"start_in_ns"` // from the moment of the decision; 0 means now
	Interval time.Duration `json:"interval_ns"` // planned distance between two captures
	NextAt   time.Time     `json:"next_at"`
	Skip     bool          `json:"skip"` // no capture at NextAt, only a new look
	Reason   string        `json:"reason"`
	Binding  Binding       `json:"binding"`
}

// Observation is what the primary's agent knows of a VM and its host at one instant.
type Observation struct {
	At           time.Time  `json:"at"`
	Running      bool       `json:"running"`
	State        string     `json:"state"`         // libvirt's word
	WrittenBytes int64      `json:"written_bytes"` // by the write counters, since the last capture
	WriteReqs    int64      `json:"write_reqs"`
	WriteRate    float64    `json:"write_rate"`             // bytes/s over the last sample
	OldestWrite  *time.Time `json:"oldest_write,omitempty"` // of the writes since the last capture, one sample earlier
	DirtyBytes   int64      `json:"dirty_bytes"`            // by the bitmap, since the last committed point; -1 unknown
	SamplePeriod float64    `json:"sample_period_s"`
	HostCPU      float64    `json:"host_cpu"` // share of all cores in use, 0..1
	HostLoad1    float64    `json:"host_load1"`
	// AtRisk is the oldest write in no verified point, captures under way included; OldestWrite is after the last capture.
	AtRisk *time.Time `json:"at_risk,omitempty"`
	// GuestCPU is how many cores the VM used over the last sample.
	GuestCPU float64 `json:"guest_cpu,omitempty"`
	// Terms by which the host would hold a lease now; its guard's level is among them.
	Terms LeaseTerms `json:"terms"`
	// DirtyRate is how fast DirtyBytes grew of late, in bytes/s: what was not dirty before. DirtyAt is when it was asked for.
	DirtyRate float64    `json:"dirty_rate,omitempty"`
	DirtyAt   *time.Time `json:"dirty_at,omitempty"`
	Host      *HostLoad  `json:"host,omitempty"`
	// Memory is how fast the guest dirties its memory; nil when that was not measured of late.
	Memory *MemoryRate `json:"memory,omitempty"`
}

// MemoryRate is an estimate by a sample of pages. Nothing is decided by it: no point holds memory.
type MemoryRate struct {
	BytesPerSecond int64     `json:"bytes_per_s"` // whole MiB: libvirt tells no less
	At             time.Time `json:"at"`
}

// HostLoad is how busy a host is. Shares are of all there is, 0..1.
type HostLoad struct {
	CPU    float64 `json:"cpu"` // share of all cores in use
	Load1  float64 `json:"load1"`
	Memory float64 `json:"memory"` // share that is not available any more
	// Pressure is the share of the last ten seconds in which something waited for it; -1 where the kernel does not say.
	PressureCPU    float64 `json:"pressure_cpu"`
	PressureMemory float64 `json:"pressure_memory"`
	PressureIO     float64 `json:"pressure_io"`
	DiskBusy       float64 `json:"disk_busy"`  // of the busiest disk
	DiskBytes      float64 `json:"disk_bytes"` // bytes/s read and written
	NetSent        float64 `json:"net_sent"`   // bytes/s
	NetReceived    float64 `json:"net_received"`
	// LinkBudget is what all transfers from this host may use together, bytes/s; 0 unbounded. LinkUse is how much of it they did,
	// over the last minute.
	LinkBudget int64   `json:"link_budget,omitempty"`
	LinkUse    float64 `json:"link_use,omitempty"`
}

// HostFacts is what an agent says of its host.
type HostFacts struct {
	Host         HostID    `json:"host"`
	LinkAddress  string    `json:"link_address"` // host:port where its receiver listens
	AgentVersion string    `json:"agent_version"`
	Libvirt      string    `json:"libvirt"`
	QEMU         string    `json:"qemu"`
	BootID       string    `json:"boot_id"`
	Instance     string    `json:"instance"` // of the agent's process
	StoreFree    int64     `json:"store_free"`
	StoreTotal   int64     `json:"store_total"`
	Clock        time.Time `json:"clock"`
	CPUs         int       `json:"cpus"`
	Domains      int       `json:"domains"`
	Load         *HostLoad `json:"load,omitempty"`
	// Late are the VMs served here whose oldest unreplicated write is older than their target, by the agent's own account.
	Late []string `json:"late,omitempty"`
	// GrantorID is of this agent's state folder; Terms are what it holds leases by (its guard's level is among them).
	GrantorID string `json:"grantor_id,omitempty"`
	// CertificateEnd is when the agent's certificate ends; nil without TLS.
	CertificateEnd *time.Time `json:"certificate_end,omitempty"`
	Terms          LeaseTerms `json:"terms"`
	Guard          GuardState `json:"guard"`
	// Notify is there when the agent tells people of its own alarms; the server leaves those to it.
	Notify *NotifyFacts `json:"notify,omitempty"`
	// AtRest is AtRestEncrypted or AtRestPlain, of the disks below its state folder; empty when it cannot be told.
	AtRest string `json:"at_rest,omitempty"`
}

// NotifyFacts is what became of an agent's messages to people.
type NotifyFacts struct {
	Receivers int   `json:"receivers"`
	Delivered int64 `json:"delivered"`
	Failed    int64 `json:"failed"` // attempts
	Dropped   int64 `json:"dropped"`
}

// DomainFacts is what an agent says of one domain.
type DomainFacts struct {
	VM       VMRef    `json:"vm"`
	Running  bool     `json:"running"`
	State    string   `json:"state"`
	Disks    []Disk   `json:"disks"`
	Problems []string `json:"problems"` // why it cannot be replicated; empty when it can
}

// Check is one line of `understudy doctor`.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	Try    string `json:"try,omitempty"`
}

// Event is something libvirt told about a domain.
type Event struct {
	VM     VMRef     `json:"vm"`
	Kind   EventKind `json:"kind"`
	Detail string    `json:"detail"`
	At     time.Time `json:"at"`
	// Reason is libvirt's word for the cause of an I/O error: "enospc", or empty for every other one.
	Reason string `json:"reason,omitempty"`
	// Action is what became of the domain: "pause" or "report" for an I/O error; "none", "pause", "reset", "poweroff", "shutdown",
	// "debug" or "inject-nmi" for a watchdog; "destroy", "restart" or "preserve" for a panic.
	Action string `json:"action,omitempty"`
}

// Actions of an Event that decide what is done about it.
const (
	ActionPause    = "pause"
	ActionReport   = "report"
	ActionRestart  = "restart"
	ActionPoweroff = "poweroff"
	ActionShutdown = "shutdown"
	ReasonNoSpace  = "enospc"
)

// EventKind is the class of an Event.
type EventKind string

// Kinds.
const (
	EventStarted  EventKind = "started"
	EventCrashed  EventKind = "crashed"  // QEMU died: a failover trigger
	EventPanicked EventKind = "panicked" // the guest's kernel said so (pvpanic): a trigger unless libvirt restarts it itself
	EventWatchdog EventKind = "watchdog" // the guest did not feed its watchdog in time
	EventStopped  EventKind = "stopped"  // shut down or destroyed on purpose
	EventIOError  EventKind = "io-error" // the host's storage failed; Action says whether the guest is paused
	EventPaused   EventKind = "paused"
	EventResumed  EventKind = "resumed"
	EventVanished EventKind = "vanished" // not running any more, and no event told of it (host reboot)
)
