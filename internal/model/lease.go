package model

import (
	"math"
	"time"
)

// LeaseMode says what binds the holder of a permitted generation. Inside a generation it goes one way only:
// probation, sole, leased; any other change burns a generation (references/single-writer.md, section 2).
type LeaseMode string

// Modes.
const (
	ModeProbation LeaseMode = "probation" // just taken over: only the control plane grants
	ModeSole      LeaseMode = "sole"      // a running copy has no deadline; only evidence that it is off moves the VM
	ModeLeased    LeaseMode = "leased"    // standby and control plane grant; the holder is bound by a deadline
)

// Rank orders the modes of one generation; 0 is no mode.
func (m LeaseMode) Rank() int {
	switch m {
	case ModeProbation:
		return 1
	case ModeSole:
		return 2
	case ModeLeased:
		return 3
	}
	return 0
}

// Isolation is what the guard does to a VM whose deadline has come.
type Isolation string

// Actions.
const (
	IsolationFreeze Isolation = "freeze" // stop its vCPUs, and let it go on when a grant comes
	IsolationKill   Isolation = "kill"   // end its QEMU
	IsolationKeep   Isolation = "keep"   // never stopped by itself: the VM stays in mode sole
)

// BootTime is an instant of CLOCK_BOOTTIME in nanoseconds: comparable within one boot of one host only.
type BootTime int64

// Add moves the instant.
func (b BootTime) Add(d time.Duration) BootTime { return b + BootTime(d) }

// Sub is the distance of two instants of the same boot.
func (b BootTime) Sub(o BootTime) time.Duration { return time.Duration(b - o) }

// LeaseTerms are what a holder reports of itself; the wait of a takeover from it follows from them and from nothing else.
type LeaseTerms struct {
	TTL   time.Duration `json:"ttl_ns"`   // of a grant, from the moment the request was sent
	Renew time.Duration `json:"renew_ns"` // distance of two renewals
	DStop time.Duration `json:"d_stop_ns"`
	TWd   time.Duration `json:"t_wd_ns"` // of the watchdog
	// GuardLevel: 0 none, 1 process, 2 softdog, 3 hardware watchdog.
	GuardLevel int `json:"guard_level"`
}

// Bounds of the protocol, references/single-writer.md section 5.
const (
	LeaseTTL      = 15 * time.Second
	LeaseRenew    = 3 * time.Second
	LeaseAttempt  = 2 * time.Second // timeout of one request for a grant
	LeaseRho      = 0.01            // bound on the error of a clock's rate
	GuardDStop    = 2 * time.Second // from the deadline until no vCPU runs
	GuardWatchdog = 5 * time.Second
	GuardEarly    = time.Second // the guard acts so long before the deadline
)

// DefaultTerms are the terms of a host whose guard has this level.
func DefaultTerms(level int) LeaseTerms {
	return LeaseTerms{TTL: LeaseTTL, Renew: LeaseRenew, DStop: GuardDStop, TWd: GuardWatchdog, GuardLevel: level}
}

// Least is the left side of the inequality that makes a wait safe; 0 when no wait is (no guard).
//
//	level 1:  (1+ρ) · [ (1+ρ)·TTL + D_stop ]
//	level 2+: (1+ρ) · [ (1+ρ)·TTL + max(D_stop, T_wd + 1 s) ]
func (t LeaseTerms) Least() time.Duration {
	if t.GuardLevel < 1 {
		return 0
	}
	stop := t.DStop
	if t.GuardLevel >= 2 {
		stop = max(stop, t.TWd+time.Second)
	}
	r := 1 + LeaseRho
	return time.Duration(r * (r*float64(t.TTL) + float64(stop)))
}

// Wait is W, the wait of a takeover by lease: the least one in whole seconds (18 s and 22 s by default). 0 means that a
// lease proves nothing here.
func (t LeaseTerms) Wait() time.Duration {
	return time.Duration(math.Ceil(t.Least().Seconds())) * time.Second
}

// Validate refuses terms under which a healthy holder could lose its lease or a takeover could come too early.
func (t LeaseTerms) Validate() error {
	switch {
	case t.TTL < 2*time.Second || t.TTL > 5*time.Minute:
		return Fail(InvalidArgument, nil, "the lease's TTL must be between 2s and 5m, not %s", t.TTL)
	case t.Renew < 200*time.Millisecond:
		return Fail(InvalidArgument, nil, "the lease's renew period must be at least 200ms, not %s", t.Renew)
	case t.TTL < 4*t.Renew+min(LeaseAttempt, t.Renew):
		return Fail(InvalidArgument, nil, "TTL %s is below four renew periods of %s and one attempt's timeout of %s",
			t.TTL, t.Renew, min(LeaseAttempt, t.Renew)).WithTry("raise the TTL or lower the renew period")
	case t.DStop <= 0 || t.TWd < 0 || t.GuardLevel < 0 || t.GuardLevel > 3:
		return Fail(InvalidArgument, nil, "D_stop %s, watchdog %s and guard level %d are not terms of a lease", t.DStop, t.TWd, t.GuardLevel)
	}
	return nil
}

// Grantor is who may grant a lease. ID is durable with its state: one that was reinstalled is another grantor, and in
// nobody's list.
type Grantor struct {
	Host    HostID `json:"host"` // empty for the control plane
	Address string `json:"address"`
	ID      string `json:"id"`
}

// Control says that it is the control plane's.
func (g Grantor) Control() bool { return g.Host == "" }

// GuardState is what a host's guard says of itself.
type GuardState struct {
	Level    int           `json:"level"`
	DStop    time.Duration `json:"d_stop_ns"` // the longest measured from order to proof; 0 nothing was measured yet
	Watchdog string        `json:"watchdog,omitempty"`
	Detail   string        `json:"detail,omitempty"` // why there is none
}

// GuardArm binds a VM on this host: at Deadline its vCPUs stop, unless a later one came before.
type GuardArm struct {
	UUID       string     `json:"uuid"`
	Generation Generation `json:"generation"`
	BootID     string     `json:"boot_id"`
	// Deadline also closes the start gate. In mode sole it does only that: a running copy goes on.
	Deadline BootTime  `json:"deadline"`
	Mode     LeaseMode `json:"mode"`
	Action   Isolation `json:"action"`
}
